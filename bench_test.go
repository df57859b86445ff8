package jskv_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/embedded"
)

// Every benchmark stands beside the stock client's way of doing the same, and beside the bare
// requests that it cannot do without ("request", the floor). The server is a process of its own,
// so the allocations are the client's. -count repeats each of the three before the next one
// begins; on a machine that does other work too, run the whole several times instead.

const (
	benchKeys  = 1000
	manyKeys   = 100_000
	benchValue = "sixty-four bytes, which is what a small setting or a name may be"

	// serverDir is the variable that makes the test binary a server.
	serverDir = "JSKV_BENCH_SERVER_DIR"
)

// The server is this same binary, started again: it needs no build of its own, and ends when
// its standard input does, so it never outlives the benchmarks. TestMain is too late, as flags
// are parsed and leaks watched by then.
func init() {
	dir := os.Getenv(serverDir)
	if dir == "" {
		return
	}
	server, err := embedded.Start(dir, embedded.Listen("127.0.0.1:0"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(server.URL())
	_, _ = io.Copy(io.Discard, os.Stdin) // whatever ends it, the benchmarks are over
	server.Shutdown()
	os.Exit(0)
}

// startBenchServer returns the address of a server in a process of its own.
func startBenchServer(b *testing.B) string {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverDir+"="+b.TempDir())
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
	url, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(b, err)
	return strings.TrimSpace(url)
}

// rivals are three ways to one bucket, each over a connection of its own.
type rivals struct {
	jskv   *jskv.Bucket[string]
	stock  jetstream.KeyValue
	nc     *nats.Conn // for bare requests
	newest uint64     // revision of the bucket
}

// newRivals makes a bucket with n keys. It lies in memory, so that as little as possible of what
// is measured is the server's.
func newRivals(b *testing.B, n int) *rivals {
	b.Helper()
	url := startBenchServer(b)
	js := benchJetStream(b, url)
	bucket := createBucket(b, js, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	stock, err := benchJetStream(b, url).KeyValue(b.Context(), "b")
	require.NoError(b, err)
	benchFill(b, bucket, keyNames(n))
	info, err := bucket.Stream().Info(b.Context())
	require.NoError(b, err)
	require.EqualValues(b, n, info.State.LastSeq)
	return &rivals{jskv: bucket, stock: stock, nc: benchJetStream(b, url).Conn(), newest: info.State.LastSeq}
}

// benchFill puts every key once.
func benchFill(b *testing.B, bucket *jskv.Bucket[string], keys []string) {
	n, err := bucket.PutMany(context.Background(), func(yield func(string, string) bool) {
		for _, key := range keys {
			if !yield(key, benchValue) {
				return
			}
		}
	})
	if n != len(keys) || err != nil {
		b.Errorf("%d of %d keys were written: %v", n, len(keys), err)
	}
}

func benchJetStream(b *testing.B, url string) jetstream.JetStream {
	b.Helper()
	nc, err := nats.Connect(url, nats.Timeout(10*time.Second))
	require.NoError(b, err)
	b.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(b, err)
	return js
}

func benchKey(i int) string { return fmt.Sprintf("user.%05d.name", i) }

// keyNames are made before the clock runs.
func keyNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = benchKey(i)
	}
	return names
}

// contexts are the kinds that callers have: one that cannot end, and those that can.
func contexts(b *testing.B, run func(b *testing.B, ctx context.Context)) {
	b.Run("background", func(b *testing.B) { run(b, context.Background()) })
	b.Run("cancel", func(b *testing.B) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		run(b, ctx)
	})
	b.Run("deadline", func(b *testing.B) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		run(b, ctx)
	})
}

// wrote checks that a write made the bucket's next revision.
func (r *rivals) wrote(b *testing.B, revision uint64, err error) {
	if r.newest++; err != nil || revision != r.newest {
		b.Fatalf("write %d made revision %d, %v", r.newest, revision, err)
	}
}

// acked is wrote for a bare request, whose answer is read with as little as it takes.
func (r *rivals) acked(b *testing.B, msg *nats.Msg, err error) {
	if r.newest++; err != nil || string(msg.Data) != `{"stream":"KV_b","seq":`+strconv.FormatUint(r.newest, 10)+`}` {
		b.Fatalf("write %d: %v, %v", r.newest, msg, err)
	}
}

func request(ctx context.Context, nc *nats.Conn, msg *nats.Msg) (*nats.Msg, error) {
	if ctx.Done() == nil {
		return nc.RequestMsg(msg, 5*time.Second)
	}
	return nc.RequestMsgWithContext(ctx, msg)
}

func BenchmarkPut(b *testing.B) {
	r := newRivals(b, benchKeys)
	keys := keyNames(benchKeys)
	contexts(b, func(b *testing.B, ctx context.Context) {
		b.Run("jskv", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				revision, err := r.jskv.Put(ctx, keys[i%benchKeys], benchValue)
				r.wrote(b, revision, err)
			}
		})
		b.Run("stock", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				revision, err := r.stock.PutString(ctx, keys[i%benchKeys], benchValue)
				r.wrote(b, revision, err)
			}
		})
		b.Run("request", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				msg, err := request(ctx, r.nc, &nats.Msg{Subject: "$KV.b." + keys[i%benchKeys], Data: []byte(benchValue)})
				r.acked(b, msg, err)
			}
		})
	})
}

func BenchmarkEntry(b *testing.B) {
	r := newRivals(b, benchKeys)
	keys := keyNames(benchKeys)
	contexts(b, func(b *testing.B, ctx context.Context) {
		b.Run("jskv", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				e, err := r.jskv.Entry(ctx, keys[i%benchKeys])
				if err != nil || e.Revision != uint64(i%benchKeys+1) || e.Value != benchValue {
					b.Fatal(e, err)
				}
			}
		})
		b.Run("stock", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				e, err := r.stock.Get(ctx, keys[i%benchKeys])
				if err != nil || e.Revision() != uint64(i%benchKeys+1) || string(e.Value()) != benchValue {
					b.Fatal(e, err)
				}
			}
		})
		b.Run("request", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				msg, err := request(ctx, r.nc, &nats.Msg{Subject: "$JS.API.DIRECT.GET.KV_b.$KV.b." + keys[i%benchKeys]})
				if err != nil || string(msg.Data) != benchValue {
					b.Fatal(msg, err)
				}
			}
		})
	})
}

// BenchmarkEntryOfMany is the time for each of many reads at the same time.
func BenchmarkEntryOfMany(b *testing.B) {
	r := newRivals(b, benchKeys)
	keys := keyNames(benchKeys)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	for _, goroutines := range []int{1, 8, 64, 256} {
		b.Run(strconv.Itoa(goroutines), func(b *testing.B) {
			byMany(b, "jskv", goroutines, func(i int) bool {
				e, err := r.jskv.Entry(ctx, keys[i%benchKeys])
				return err == nil && e.Revision == uint64(i%benchKeys+1) && e.Value == benchValue
			})
			byMany(b, "stock", goroutines, func(i int) bool {
				e, err := r.stock.Get(ctx, keys[i%benchKeys])
				return err == nil && e.Revision() == uint64(i%benchKeys+1) && string(e.Value()) == benchValue
			})
			byMany(b, "request", goroutines, func(i int) bool {
				msg, err := request(ctx, r.nc, &nats.Msg{Subject: "$JS.API.DIRECT.GET.KV_b.$KV.b." + keys[i%benchKeys]})
				return err == nil && string(msg.Data) == benchValue
			})
		})
	}
}

// byMany measures what goroutines do at the same time, each a part of it.
func byMany(b *testing.B, name string, goroutines int, do func(i int) bool) {
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		var group sync.WaitGroup
		for first := range goroutines {
			group.Go(func() {
				for i := first; i < b.N; i += goroutines {
					if !do(i) {
						b.Errorf("%d went wrong", i)
						return
					}
				}
			})
		}
		group.Wait()
	})
}

func BenchmarkUpdate(b *testing.B) {
	r := newRivals(b, 1)
	key := benchKey(0)
	contexts(b, func(b *testing.B, ctx context.Context) {
		b.Run("jskv", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				revision, err := r.jskv.Update(ctx, key, benchValue, r.newest)
				r.wrote(b, revision, err)
			}
		})
		b.Run("stock", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				revision, err := r.stock.Update(ctx, key, []byte(benchValue), r.newest)
				r.wrote(b, revision, err)
			}
		})
		b.Run("request", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				msg, err := request(ctx, r.nc, &nats.Msg{
					Subject: "$KV.b." + key,
					Header:  nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(r.newest, 10)}},
					Data:    []byte(benchValue),
				})
				r.acked(b, msg, err)
			}
		})
	})
}
