package jskv_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// What the promises on three replicas cost, beside the stock client that does not make them. The two
// take turns, call by call, so that whatever else the machine does falls on both, and what is
// reported is the ratio of their medians. The servers run in one process of their own.

// clusterDir is the variable that makes the test binary a cluster; see serverDir.
const clusterDir = "JSKV_BENCH_CLUSTER_DIR"

func init() {
	dir := os.Getenv(clusterDir)
	if dir == "" {
		return
	}
	if err := serveCluster(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serveCluster runs three servers until standard input ends, and prints their addresses.
func serveCluster(dir string) error {
	var (
		listeners [3]net.Listener // each keeps a port until its server takes it
		routes    []*url.URL
		servers   []*server.Server
	)
	for i := range listeners {
		var err error
		if listeners[i], err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
			return err
		}
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: listeners[i].Addr().String()})
	}
	for i, listener := range listeners {
		name := fmt.Sprint("s", i)
		ns, err := server.NewServer(&server.Options{
			ServerName: name, Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true,
			JetStream: true, StoreDir: filepath.Join(dir, name),
			Cluster: server.ClusterOpts{Name: "bench", Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port}, Routes: routes,
		})
		if err != nil {
			return err
		}
		_ = listener.Close() // nobody has used it
		ns.Start()
		servers = append(servers, ns)
	}
	for _, ns := range servers {
		for !ns.ReadyForConnections(time.Second) || !ns.JetStreamIsCurrent() {
			runtime.Gosched()
		}
		fmt.Println(ns.ClientURL())
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	for _, ns := range servers {
		ns.Shutdown()
	}
	return err
}

// startBenchCluster returns the addresses of three servers in a process of their own; the i-th is
// named "s<i>".
func startBenchCluster(b *testing.B) []string {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), clusterDir+"="+b.TempDir())
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(b, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		require.NoError(b, stdin.Close())
		require.NoError(b, cmd.Wait())
	})
	lines, urls := bufio.NewScanner(stdout), []string(nil)
	for len(urls) < 3 && lines.Scan() {
		urls = append(urls, lines.Text())
	}
	require.Len(b, urls, 3)
	return urls
}

// takeTurns calls ours and theirs alternately, and reports both and their ratio.
func takeTurns(b *testing.B, ours, theirs func(i int) error) {
	b.Helper()
	var took [2][]time.Duration
	calls := [2]func(int) error{ours, theirs}
	for i := 0; b.Loop(); i++ {
		for turn := range calls {
			who := (turn + i) % 2 // each goes first as often as the other
			begun := time.Now()
			if err := calls[who](i); err != nil {
				b.Fatal(err)
			}
			took[who] = append(took[who], time.Since(begun))
		}
	}
	var medians [2]float64
	for who := range took {
		slices.Sort(took[who])
		medians[who] = float64(took[who][len(took[who])/2])
	}
	b.ReportMetric(medians[0]/1000, "jskv-µs")
	b.ReportMetric(medians[1]/1000, "stock-µs")
	b.ReportMetric(medians[0]/medians[1], "jskv/stock")
	b.ReportMetric(0, "ns/op") // of both together
}

// replicated is a bucket with n keys on three servers, and a JetStream of the one that leads it
// and of one that does not.
func replicated(b *testing.B, n int, run func(b *testing.B, js jetstream.JetStream)) {
	b.Helper()
	urls := startBenchCluster(b)
	js := firstOf(b, urls...)
	var bucket *jskv.Bucket[string]
	eventually(b, func() (ok bool) {
		var err error
		bucket, err = jskv.CreateBucket(testContext(b), js, jetstream.KeyValueConfig{Bucket: "b", Replicas: 3, Storage: jetstream.MemoryStorage}, jskv.String())
		return err == nil
	}, "all three servers are there")
	eventually(b, func() bool { return second(bucket.Put(testContext(b), "first", "v")) == nil }, "the bucket has a leader")
	_, err := bucket.Purge(testContext(b), "first")
	require.NoError(b, err)
	for i := range n {
		mustPut(b, bucket, benchKey(i), benchValue)
	}
	wait(testContext(b), 2500*time.Millisecond) // until all three answer direct gets
	for i, url := range urls {
		info, err := bucket.Stream().Info(testContext(b))
		require.NoError(b, err)
		switch info.Cluster.Leader {
		case fmt.Sprint("s", i):
			b.Run("leader", func(b *testing.B) { run(b, firstOf(b, url)) })
		case fmt.Sprint("s", (i+1)%3):
			b.Run("follower", func(b *testing.B) { run(b, firstOf(b, url)) })
		}
	}
}

func BenchmarkReplicatedEntry(b *testing.B) {
	const n = 100
	replicated(b, n, func(b *testing.B, js jetstream.JetStream) {
		ours, stock := openBucket(b, js), stockBucket(b, js)
		beside := func(ctx context.Context, options ...jskv.ReadOption) func(b *testing.B) {
			return func(b *testing.B) {
				takeTurns(b, func(i int) error {
					e, err := ours.Entry(ctx, benchKey(i%n), options...)
					if err == nil && e.Value != benchValue {
						return fmt.Errorf("key %d is %q", i%n, e.Value)
					}
					return err
				}, func(i int) error {
					e, err := stock.Get(ctx, benchKey(i%n))
					if err == nil && string(e.Value()) != benchValue {
						return fmt.Errorf("key %d is %q", i%n, e.Value())
					}
					return err
				})
			}
		}
		mustPut(b, ours, "mine", "v")
		// Most programs' contexts have one: both clients then make no context of their own.
		deadline, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		b.Run("read your writes", beside(context.Background()))
		b.Run("read your writes, with a deadline", beside(deadline))
		b.Run("from leader", beside(context.Background(), jskv.FromLeader()))
	})
}

func BenchmarkReplicatedKeys(b *testing.B) {
	ctx := context.Background()
	for _, n := range []int{10, 1000, 5000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			replicated(b, n, func(b *testing.B, js jetstream.JetStream) {
				ours, stock := openBucket(b, js), stockBucket(b, js)
				mustPut(b, ours, benchKey(0), "v")
				takeTurns(b, func(int) error {
					keys, err := jskv.Collect(ours.Keys(ctx))
					if err == nil && len(keys) != n {
						return fmt.Errorf("%d keys", len(keys))
					}
					return err
				}, func(int) error {
					keys, err := stock.Keys(ctx)
					if err == nil && len(keys) != n && len(keys) != n-1 { // it may miss one that is being written on its replica
						return fmt.Errorf("%d keys", len(keys))
					}
					return err
				})
			})
		})
	}
}

func BenchmarkReplicatedPut(b *testing.B) {
	ctx := context.Background()
	replicated(b, 0, func(b *testing.B, js jetstream.JetStream) {
		stock := stockBucket(b, js)
		for name, ours := range map[string]*jskv.Bucket[string]{"plain": openBucket(b, js), "idempotent": openIdempotent(b, js)} {
			b.Run(name, func(b *testing.B) {
				takeTurns(b,
					func(int) error { return second(ours.Put(ctx, "ours", benchValue)) },
					func(int) error { return second(stock.PutString(ctx, "stock", benchValue)) })
			})
		}
	})
}

// What a server remembers of an idempotent write, for the duplicate window: in memory, on each
// replica.
func BenchmarkRememberedID(b *testing.B) {
	const writes = 200_000
	for b.Loop() {
		var heap [2]float64
		for i, opts := range [][]jskv.BucketOption{nil, {jskv.WithIdempotentWrites()}} {
			bucket, server := newBucket(b, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage}, opts...)
			before := liveHeap()
			_, err := bucket.PutMany(context.Background(), func(yield func(string, string) bool) {
				for range writes {
					if !yield("k", "v") {
						return
					}
				}
			})
			require.NoError(b, err)
			heap[i] = liveHeap() - before
			server.Stop()
		}
		b.ReportMetric((heap[1]-heap[0])/writes, "B/write")
	}
}

func liveHeap() float64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc)
}
