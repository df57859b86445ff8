package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Bucket is an untyped handle on one bucket. It is safe for concurrent use.
type Bucket struct {
	*Conn
	name        string
	stream      string // KV_<name>
	directGet   string // the subject of direct gets
	readPrefix  string // of the stored subjects; a mirror keeps its origin's
	writePrefix string // of the subjects that writes go to
	origin      place  // where writes arrive: the stream itself, or what it mirrors
	handle      jetstream.Stream
	idempotent  bool

	shares    shares
	gathering gathering
	answers   keptInbox

	facts    atomic.Pointer[facts] // of the stream that is read
	rules    atomic.Pointer[facts] // of the one that takes the writes, nil while not known
	mirrored atomic.Bool           // a mirror has answered a direct get for this stream
	witness  atomic.Pointer[witness]
	narrow   atomic.Bool // the account may make consumers only with filters within the bucket

	seeing  sync.Mutex // held while an answer about the stream that takes the writes is taken in
	present atomic.Pointer[era]
}

// place is a stream and the API prefix under which it is reached.
type place struct {
	api, stream string
}

// facts are what a handle needs to know of its stream, as it last saw it.
type facts struct {
	created   time.Time
	clustered bool
	replicas  int
	direct    bool
	history   int64
	maxAge    time.Duration
	rollup    bool // a message may drop the older ones of its key
	ttls      bool // per-message TTLs are allowed
	markerTTL time.Duration
	maxSize   int32 // of a message, -1 for any
	mirror    bool
	own       bool // it has nothing but the bucket's keys
	atomic    bool
	large     bool   // it has more than one request may list, or more than it should
	batched   bool   // batches of fast ingest are allowed, and judge writes as they are judged alone
	leader    string // the server that takes the writes
}

func factsOf(info *jetstream.StreamInfo) *facts {
	cfg := &info.Config
	f := &facts{
		created:   info.Created,
		clustered: info.Cluster != nil && info.Cluster.Name != "",
		replicas:  cfg.Replicas,
		direct:    cfg.AllowDirect,
		history:   cfg.MaxMsgsPerSubject,
		maxAge:    cfg.MaxAge,
		rollup:    cfg.AllowRollup && !cfg.DenyPurge,
		ttls:      cfg.AllowMsgTTL,
		markerTTL: cfg.SubjectDeleteMarkerTTL,
		maxSize:   cfg.MaxMsgSize,
		mirror:    cfg.Mirror != nil,
		own: cfg.Mirror == nil && len(cfg.Sources) == 0 && cfg.SubjectTransform == nil &&
			slices.Equal(cfg.Subjects, []string{keySpaceOf(cfg.Name) + AllKeys}),
		atomic: cfg.AllowAtomicPublish,
		large:  info.State.NumSubjects > mostMatches || info.State.NumSubjects*averageSize(info) > listBytes,
		// In a batch a full bucket refuses also what would replace as much as it brings.
		batched: cfg.AllowBatchPublish && cfg.MaxBytes <= 0 && cfg.MaxMsgs <= 0 && !cfg.DiscardNewPerSubject,
	}
	if info.Cluster != nil {
		f.leader = info.Cluster.Leader
	}
	return f
}

// Options are what a bucket is opened or made with beside its configuration.
type Options struct {
	Transactions bool // accept atomic batches
	FastIngest   bool // accept batches of fast ingest
	Idempotent   bool // stamp writes with an id
}

// Open binds to an existing bucket.
func Open(ctx context.Context, js jetstream.JetStream, name string, opts Options) (*Bucket, error) {
	if err := CheckBucket(name); err != nil {
		return nil, err
	}
	c, err := NewConn(js)
	if err != nil {
		return nil, err
	}
	stream, err := c.openStream(ctx, streamPrefix+name)
	if err != nil {
		return nil, err
	}
	return c.bind(ctx, stream, opts)
}

func (c *Conn) openStream(ctx context.Context, name string) (jetstream.Stream, error) {
	return askThrough(ctx, c, infoOf+name, func(ctx context.Context) (jetstream.Stream, error) {
		return c.js.Stream(ctx, name)
	})
}

// bind makes the handle for a stream that is there.
func (c *Conn) bind(ctx context.Context, stream jetstream.Stream, opts Options) (*Bucket, error) {
	info := stream.CachedInfo()
	if info.Config.MaxMsgsPerSubject < 1 {
		return nil, badBucket(info.Config.Name)
	}
	if opts.Transactions && !info.Config.AllowAtomicPublish {
		return nil, ErrTransactionsDisabled
	}
	if opts.FastIngest && !info.Config.AllowBatchPublish {
		return nil, fmt.Errorf("%w: the bucket does not accept fast ingest, CreateOrUpdateBucket with WithFastIngest enables it", ErrInvalidOption)
	}
	b := &Bucket{
		Conn:       c,
		name:       strings.TrimPrefix(info.Config.Name, streamPrefix),
		stream:     info.Config.Name,
		directGet:  c.api + directGet + info.Config.Name,
		handle:     stream,
		idempotent: opts.Idempotent,
	}
	b.present.Store(&era{})
	b.readPrefix, b.origin = c.locate(ctx, c.api, &info.Config, 0)
	b.writePrefix = keySpaceOf(b.origin.stream)
	if b.origin.api != jetstream.DefaultAPIPrefix {
		// Another domain, or another account behind an import, maps the writes as it maps the API.
		b.writePrefix = b.origin.api + b.writePrefix
	}
	b.facts.Store(factsOf(info))
	if info.Config.Mirror == nil {
		b.sawOrigin(time.Time{}, info) // asked for some time ago
	}
	if b.shared() {
		// Its reads of single keys need it, but over a connection that is drained, which has none.
		if err := b.keepInbox(); err != nil && !errors.Is(err, nats.ErrConnectionDraining) {
			return nil, err
		}
	}
	return b, nil
}

func badBucket(stream string) error {
	return fmt.Errorf("%w: stream %s keeps no history per subject", jetstream.ErrBadBucket, stream)
}

// locate follows mirrors to the stream that takes the writes, and tells the prefix of the
// subjects that cfg's stream stores.
func (c *Conn) locate(ctx context.Context, api string, cfg *jetstream.StreamConfig, depth int) (readPrefix string, origin place) {
	self := place{api, cfg.Name}
	mirror := cfg.Mirror
	if mirror == nil {
		return keySpaceOf(cfg.Name), self
	}
	if mirror.External != nil && mirror.External.APIPrefix != "" {
		api = strings.TrimSuffix(mirror.External.APIPrefix, ".") + "."
	}
	// A mirror of a mirror is told apart only by asking. That the origin cannot be asked (it may
	// be out of reach just now) must not keep anyone from reading the mirror.
	const mostMirrors, patience = 8, 2 * time.Second
	ask, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	info, err := c.streamInfo(ask, place{api, mirror.Name})
	if err == nil && depth < mostMirrors {
		readPrefix, origin = c.locate(ctx, api, &info.Config, depth+1)
	} else {
		origin = place{api, mirror.Name}
		if readPrefix = c.storedPrefix(ctx, self); readPrefix == "" {
			readPrefix = keySpaceOf(mirror.Name)
		}
	}
	for _, transform := range mirror.SubjectTransforms {
		if rest, ok := strings.CutPrefix(transform.Destination, keySpace); ok {
			bucket, _, _ := strings.Cut(rest, ".")
			readPrefix = keySpace + bucket + "."
			break
		}
	}
	return readPrefix, origin
}

// storedPrefix is that of the subjects which the mirror at p has, "" where nothing tells. What it mirrors,
// if that cannot be asked, may have been a mirror itself.
func (c *Conn) storedPrefix(ctx context.Context, p place) string {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	newest := mustJSON(map[string]string{"last_by_subj": keySpace + AllKeys})
	msg, err := c.ask(ctx, p.api+directGet+p.stream, newest)
	if err != nil {
		return "" // no reason to keep anyone from reading: see locate
	}
	rest, ok := strings.CutPrefix(lastOf(msg.Header, jetstream.SubjectHeader), keySpace)
	bucket, _, _ := strings.Cut(rest, ".")
	if !ok {
		return ""
	}
	return keySpace + bucket + "."
}

// streamInfo asks for a stream's state; ErrBucketNotFound when it is not there.
func (c *Conn) streamInfo(ctx context.Context, p place) (*jetstream.StreamInfo, error) {
	var info jetstream.StreamInfo
	if err := c.apiRequest(ctx, p.api, infoOf+p.stream, nil, &info); err != nil {
		return nil, err
	}
	return &info, nil
}

// streamInfo is Conn's, but in a cluster it believes only the second answer that a stream is not there: a server
// may not know yet a stream made a moment ago, or, just started, any stream (2.15.2).
func (b *Bucket) streamInfo(ctx context.Context, p place) (*jetstream.StreamInfo, error) {
	info, err := b.Conn.streamInfo(ctx, p)
	clustered := b.facts.Load().clustered
	if rules := b.rules.Load(); p == b.origin && rules != nil {
		clustered = rules.clustered
	}
	if !errors.Is(err, ErrBucketNotFound) || !clustered {
		return info, err
	}
	if err := pause(ctx, lossCheck); err != nil {
		return nil, err
	}
	return b.Conn.streamInfo(ctx, p)
}

// witness tells which stream was there at a time.
type witness struct{ asked, created time.Time }

// Info asks for the state of the bucket's stream and remembers what it says of the
// configuration.
func (b *Bucket) Info(ctx context.Context) (*jetstream.StreamInfo, error) {
	if b.origin == (place{b.api, b.stream}) {
		return b.originInfo(ctx)
	}
	asked := time.Now()
	info, err := b.streamInfo(ctx, place{b.api, b.stream})
	if err != nil {
		return nil, err
	}
	b.saw(asked, info)
	return info, nil
}

// saw remembers what the stream that is read was at a time.
func (b *Bucket) saw(asked time.Time, info *jetstream.StreamInfo) {
	b.witness.Store(&witness{asked, info.Created})
	b.facts.Store(factsOf(info))
}

// originInfo asks for the state of the stream that takes the writes.
func (b *Bucket) originInfo(ctx context.Context) (*jetstream.StreamInfo, error) {
	for {
		asked := time.Now()
		info, err := b.streamInfo(ctx, b.origin)
		if err != nil {
			return nil, err
		}
		if b.sawOrigin(asked, info) {
			return info, nil
		}
	}
}

// writeRules are the rules for writes; fresh asks for them anew.
func (b *Bucket) writeRules(ctx context.Context, fresh bool) (*facts, error) {
	if rules := b.rules.Load(); rules != nil && !fresh {
		return rules, nil
	}
	if _, err := b.originInfo(ctx); err != nil {
		return nil, err
	}
	return b.rules.Load(), nil
}

// Name is the bucket's name.
func (b *Bucket) Name() string { return b.name }

// StreamName is the name of the stream under the bucket.
func (b *Bucket) StreamName() string { return b.stream }

// Subject is the subject under which the stream stores key.
func (b *Bucket) Subject(key string) string { return b.readPrefix + key }

// Stream is the stream under the bucket.
func (b *Bucket) Stream() jetstream.Stream { return b.handle }

// Status is the bucket's status as the stock client gives it, so that programs can go on with
// its concrete type.
func (b *Bucket) Status(ctx context.Context) (jetstream.KeyValueStatus, error) {
	return askThrough(ctx, b.Conn, infoOf+b.stream, func(ctx context.Context) (jetstream.KeyValueStatus, error) {
		kv, err := b.js.KeyValue(ctx, b.name)
		if err != nil {
			return nil, err
		}
		return kv.Status(ctx)
	})
}

// cautious reports whether somebody else than the stream's leader may answer direct gets.
func (b *Bucket) cautious() bool {
	f := b.facts.Load()
	return f.replicas > 1 || f.mirror || b.mirrored.Load()
}

// shared reports whether direct gets may be answered by another server than the one that
// acknowledged: now, or as soon as somebody gives the bucket replicas.
func (b *Bucket) shared() bool { return b.facts.Load().clustered || b.cautious() }

// connectedTo reports whether the connection is to the server that takes the writes, of that name. In
// another domain there may be a namesake.
func (b *Bucket) connectedTo(leader string) bool {
	return b.origin.api == jetstream.DefaultAPIPrefix && b.nc.ConnectedServerName() == leader
}

// gone tells why nobody answers for the stream at p: it was deleted (ErrBucketNotFound), or
// the server cannot be asked. It returns nil when the stream is there.
func (b *Bucket) gone(ctx context.Context, p place) error {
	_, err := b.streamInfo(ctx, p)
	return err
}

// vigil watches over a request to the stream at p in another domain, from where nobody says that
// nobody is there: after a while without an answer it asks whether the stream is, and ends the
// request if not. The returned function, to be called when the request has ended, tells that.
func (b *Bucket) vigil(ctx context.Context, p place) (context.Context, func() error) {
	if p.api == jetstream.DefaultAPIPrefix {
		return ctx, func() error { return nil }
	}
	ctx, end := context.WithCancelCause(ctx)
	looked := make(chan struct{})
	timer := time.AfterFunc(firstPatience, func() {
		defer close(looked)
		if err := b.gone(ctx, p); errors.Is(err, ErrBucketNotFound) {
			end(err)
		}
	})
	return ctx, func() error {
		cause := context.Cause(ctx)
		end(nil)
		if !timer.Stop() {
			<-looked
		}
		if errors.Is(cause, ErrBucketNotFound) {
			return cause
		}
		return nil
	}
}

// Delete deletes a bucket.
func Delete(ctx context.Context, js jetstream.JetStream, name string) error {
	if err := CheckBucket(name); err != nil {
		return err
	}
	c, err := NewConn(js)
	if err != nil {
		return err
	}
	if err := js.DeleteStream(ctx, streamPrefix+name); err != nil {
		return c.denied(fromJetStream(err), c.api+"STREAM.DELETE."+streamPrefix+name)
	}
	return nil
}

// Names yields the names of all buckets, page by page.
func Names(ctx context.Context, js jetstream.JetStream) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		c, err := NewConn(js)
		if err != nil {
			yield("", err)
			return
		}
		for offset := 0; ; {
			var page struct {
				Total   int      `json:"total"`
				Streams []string `json:"streams"`
			}
			// No subject filter: a mirror has no subjects and is a bucket all the same.
			request := map[string]int{"offset": offset}
			if err := c.apiRequest(ctx, c.api, "STREAM.NAMES", request, &page); err != nil {
				yield("", err)
				return
			}
			for _, stream := range page.Streams {
				name, ok := strings.CutPrefix(stream, streamPrefix)
				if ok && CheckBucket(name) == nil && !yield(name, nil) {
					return
				}
			}
			offset += len(page.Streams)
			if len(page.Streams) == 0 || offset >= page.Total {
				return
			}
		}
	}
}

// mustJSON encodes requests made of strings and numbers, which cannot fail.
func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}
