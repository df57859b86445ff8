package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/seed646b090f/jskv"
)

// The settings: where the servers run.
const (
	inLoopback = "loopback"
	inProcess  = "process"
	inCluster  = "cluster"
	inSynced   = "synced"
)

// settingTexts say what is comparable in each setting.
var settingTexts = map[string]string{
	inLoopback: "nats-server in the client's process, over TCP on the loopback; file storage, sync_interval 2m (its default)",
	inProcess:  "nats-server and etcd in a process each, over TCP on the loopback; nats-server: file storage, sync_interval 2m (its default); etcd: unsafe-no-fsync; so neither waits for the disk",
	inCluster:  "three nats-servers in one other process, bucket with three replicas, file storage, sync_interval 2m; every client is connected to the same server; etcd is not in it",
	inSynced:   "as process, but every write is on the disk before it is acknowledged; nats-server: sync_interval always; etcd: its default",
}

// arena is one setting while it lasts: its servers and a connection for each contender.
type arena struct {
	setting  string
	replicas int
	conns    map[string]*nats.Conn // by contender
	etcd     *clientv3.Client      // nil where it does not take part
	buckets  int                   // made so far
	closers  []func() error        // the last one first
}

// openArena starts what the setting needs.
func (b *bench) openArena(setting string) (a *arena, err error) {
	a = &arena{setting: setting, replicas: 1, conns: map[string]*nats.Conn{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	urls, err := b.startServers(a)
	if err != nil {
		return nil, err
	}
	for _, contender := range []string{ours, stockKV, bare} {
		if a.conns[contender], err = connectNATS(urls[0]); err != nil {
			return nil, err
		}
		a.onClose(a.conns[contender].Close)
	}
	return a, nil
}

func (b *bench) startServers(a *arena) (urls []string, err error) {
	switch a.setting {
	case inLoopback:
		dir, err := os.MkdirTemp(b.dir, a.setting)
		if err != nil {
			return nil, err
		}
		servers, err := startNATS(dir, 0, false)
		if err != nil {
			return nil, err
		}
		a.onClose(func() { shutdown(servers) })
		return []string{servers[0].ClientURL()}, nil
	case inCluster:
		a.replicas = 3
		return b.startFor(a, serveOptions{kind: kindCluster})
	}
	synced := a.setting == inSynced
	etcd, err := b.startFor(a, serveOptions{kind: kindEtcd, sync: synced})
	if err != nil {
		return nil, err
	}
	if a.etcd, err = connectEtcd(etcd[0]); err != nil {
		return nil, err
	}
	a.closers = append(a.closers, a.etcd.Close)
	return b.startFor(a, serveOptions{kind: kindNATS, sync: synced})
}

// startFor starts a child that ends with the arena.
func (b *bench) startFor(a *arena, o serveOptions) (urls []string, err error) {
	if o.dir, err = os.MkdirTemp(b.dir, a.setting); err != nil {
		return nil, err
	}
	c, err := startChild(b.ctx, o)
	if err != nil {
		return nil, err
	}
	a.closers = append(a.closers, c.stop)
	return c.urls, nil
}

func (a *arena) onClose(do func()) { a.closers = append(a.closers, func() error { do(); return nil }) }

func (a *arena) close() (err error) {
	for i := len(a.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, a.closers[i]())
	}
	a.closers = nil
	return err
}

// connectNATS connects with the client's defaults, but for reconnecting: 2 seconds between attempts
// would hide what comes after; and for how long an attempt may take.
func connectNATS(url string) (*nats.Conn, error) {
	return nats.Connect(url, nats.Timeout(startTimeout), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectJitter(0, 0), nats.MaxReconnects(-1))
}

func connectEtcd(address string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{address}, DialTimeout: startTimeout, Logger: zap.NewNop(),
		MaxCallSendMsgSize: maxPayload, MaxCallRecvMsgSize: 1 << 30})
}

// field is one bucket, filled, and every contender's way to it.
type field struct {
	*arena
	bucket string
	keys   []string
	value  []byte
	ours   *jskvStore
	stock  *stockStore
	bare   *bareStore
	etcd   *etcdStore // nil where it does not take part
}

// newField makes a bucket with n keys of so many bytes.
func (b *bench) newField(a *arena, n, bytes int, opts ...jskv.BucketOption) (*field, error) {
	a.buckets++
	f := &field{arena: a, bucket: fmt.Sprint("b", a.buckets), value: []byte(strings.Repeat("v", bytes))}
	if err := f.open(b.ctx, opts); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", f.bucket, err)
	}
	if err := f.grow(b.ctx, n); err != nil {
		return nil, errors.Join(fmt.Errorf("fill bucket %s: %w", f.bucket, err), f.delete(b.ctx))
	}
	return f, nil
}

func (f *field) open(ctx context.Context, opts []jskv.BucketOption) error {
	js, err := jetstream.New(f.conns[ours])
	if err != nil {
		return err
	}
	cfg := jetstream.KeyValueConfig{Bucket: f.bucket, Replicas: f.replicas, Storage: jetstream.FileStorage}
	bucket, err := jskv.CreateBucket(ctx, js, cfg, jskv.Bytes(), opts...)
	if err != nil {
		return err
	}
	f.ours = newJSKVStore(bucket)
	if js, err = jetstream.New(f.conns[stockKV]); err != nil {
		return err
	}
	kv, err := js.KeyValue(ctx, f.bucket)
	if err != nil {
		return err
	}
	f.stock = &stockStore{kv: kv, js: js}
	f.bare = &bareStore{nc: f.conns[bare], bucket: f.bucket}
	if f.arena.etcd != nil {
		f.etcd = &etcdStore{client: f.arena.etcd, prefix: f.bucket + "/"}
	}
	return f.awaitLeader(ctx)
}

// awaitLeader returns when the bucket takes writes: one with replicas has to elect a leader first.
func (f *field) awaitLeader(ctx context.Context) error {
	for {
		err := f.ours.removeAfterPut(ctx, "first")
		if err == nil || f.replicas == 1 || ctx.Err() != nil {
			return err
		}
	}
}

// removeAfterPut leaves nothing behind but two revisions.
func (s *jskvStore) removeAfterPut(ctx context.Context, key string) error {
	if _, err := s.put(ctx, key, nil); err != nil {
		return err
	}
	_, err := s.bucket.Purge(ctx, key)
	if err != nil {
		return err
	}
	return s.bucket.Stream().JetStream().Purge(ctx)
}

// grow adds keys until there are n.
func (f *field) grow(ctx context.Context, n int) error {
	first := len(f.keys)
	for i := first; i < n; i++ {
		f.keys = append(f.keys, keyName(i))
	}
	return f.fill(ctx, f.keys[first:])
}

func keyName(i int) string { return fmt.Sprintf("user.%07d.name", i) }

// fill writes the keys once for everybody.
func (f *field) fill(ctx context.Context, keys []string) error {
	err := f.ours.putMany(ctx, keys, f.value)
	if err == nil && f.etcd != nil {
		err = f.etcd.putMany(ctx, keys, f.value)
	}
	return err
}

// whole is what reading all of the bucket gives.
func (f *field) whole() tally { return tally{len(f.keys), len(f.keys) * len(f.value)} }

// stores are the contenders, the library first.
func (f *field) stores() []store {
	stores := []store{f.ours, f.stock, f.bare}
	if f.etcd != nil {
		stores = append(stores, f.etcd)
	}
	return stores
}

// watching are those of them that can watch.
func (f *field) watching() []watching {
	stores := []watching{f.ours, f.stock}
	if f.etcd != nil {
		stores = append(stores, f.etcd)
	}
	return stores
}

// delete deletes the bucket, so that no later one shares a server with it.
func (f *field) delete(ctx context.Context) error {
	err := jskv.DeleteBucket(ctx, f.stock.js, f.bucket)
	if f.etcd != nil {
		_, failed := f.etcd.client.Delete(ctx, f.etcd.prefix, clientv3.WithPrefix())
		err = errors.Join(err, failed)
	}
	return err
}

// trial is one in this field's setting.
func (f *field) trial(operation, params, unit string) trial {
	return trial{
		Result:   Result{Setting: f.setting, Operation: operation, Params: params, Unit: unit, Stock: stockKV, Floor: bare},
		noAllocs: f.setting == inLoopback,
	}
}

// each gives every store a run.
func (t *trial) each(stores []store, do func(s store) func(n int) error) {
	for _, s := range stores {
		t.runs = append(t.runs, run{contender: s.name(), means: s.means()[t.Operation], do: timed(t.perUnit, do(s))})
	}
}
