package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	maxHistory = jetstream.KeyValueMaxHistory

	// duplicateWindow is the server's default time in which it remembers message ids.
	duplicateWindow = 2 * time.Minute

	// API levels of the server that know a feature (ADR-44).
	levelMessageTTL = 1
	levelAtomic     = 2
	levelFastIngest = 4
)

// Create creates the bucket, or binds to one of the same configuration.
func Create(ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig, opts Options) (*Bucket, error) {
	c, scfg, err := prepare(ctx, js, cfg, opts)
	if err != nil {
		return nil, err
	}
	return c.create(ctx, scfg, opts)
}

func (c *Conn) create(ctx context.Context, scfg jetstream.StreamConfig, opts Options) (*Bucket, error) {
	// Where somebody updates what was just made, a cluster may leave its maker without an answer (2.15.2).
	for attempt := 1; ; attempt++ {
		stream, err := askThrough(ctx, c, "STREAM.CREATE."+scfg.Name, func(ctx context.Context) (jetstream.Stream, error) {
			return c.js.CreateStream(ctx, scfg)
		})
		if err == nil {
			return c.bind(ctx, stream, opts)
		}
		// A server may still be busy removing the files of a stream of the name that was just deleted.
		refusal, ok := errors.AsType[*jetstream.APIError](err)
		busy := ok && refusal.ErrorCode == codeStoreNotCreated
		if !busy || attempt == nobodyAttempts || pause(ctx, noRespondersPause) != nil {
			return nil, err
		}
	}
}

// CreateOrUpdate creates the bucket, or applies to the one that is there what cfg and opts state.
func CreateOrUpdate(ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig, opts Options) (*Bucket, error) {
	c, scfg, err := prepare(ctx, js, cfg, opts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := c.Bound(ctx)
	defer cancel()
	for {
		err := c.update(ctx, cfg, scfg, opts)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrBucketNotFound) {
			return nil, err
		}
		b, err := c.create(ctx, scfg, opts)
		if !errors.Is(err, ErrBucketExists) {
			return b, err
		}
		// Somebody else made it in between, with other settings: reconcile those.
	}
	stream, err := c.openStream(ctx, scfg.Name)
	if err != nil {
		return nil, err
	}
	return c.bind(ctx, stream, opts)
}

// prepare checks cfg and translates it to the configuration of its stream, which is what the
// stock client makes of it (a test compares the two).
func prepare(ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig, opts Options) (*Conn, jetstream.StreamConfig, error) {
	var none jetstream.StreamConfig
	if err := CheckBucket(cfg.Bucket); err != nil {
		return nil, none, err
	}
	if cfg.History > maxHistory {
		return nil, none, fmt.Errorf("%w: history %d: %w", ErrInvalidOption, cfg.History, jetstream.ErrHistoryTooLarge)
	}
	if cfg.LimitMarkerTTL != 0 && cfg.LimitMarkerTTL < time.Second {
		return nil, none, fmt.Errorf("%w: LimitMarkerTTL %v is less than a second", ErrInvalidOption, cfg.LimitMarkerTTL)
	}
	for _, origin := range origins(cfg) {
		if err := checkOrigin(origin); err != nil {
			return nil, none, err
		}
	}
	c, err := NewConn(js)
	if err != nil {
		return nil, none, err
	}
	if err := c.checkLevel(ctx, cfg, opts); err != nil {
		return nil, none, err
	}
	return c, streamConfig(cfg, opts), nil
}

// origins are what the bucket takes its keys from.
func origins(cfg jetstream.KeyValueConfig) []*jetstream.StreamSource {
	if cfg.Mirror != nil {
		return []*jetstream.StreamSource{cfg.Mirror}
	}
	return cfg.Sources
}

func checkOrigin(origin *jetstream.StreamSource) error {
	switch {
	case origin == nil:
		return fmt.Errorf("%w: a source is nil", ErrInvalidOption)
	case origin.Name == "":
		return fmt.Errorf("%w: a mirror or source without the name of its origin", ErrInvalidOption)
	case origin.Domain != "" && origin.External != nil:
		return fmt.Errorf("%w: origin %s has both a Domain and an External", ErrInvalidOption, origin.Name)
	}
	return nil
}

// checkLevel asks whether the server knows the features that are wanted; an old one would
// ignore them without a word.
func (c *Conn) checkLevel(ctx context.Context, cfg jetstream.KeyValueConfig, opts Options) error {
	if cfg.LimitMarkerTTL == 0 && !opts.Transactions && !opts.FastIngest {
		return nil
	}
	var account jetstream.AccountInfo
	if err := c.apiRequest(ctx, c.api, "INFO", nil, &account); err != nil {
		return err
	}
	if cfg.LimitMarkerTTL != 0 && account.API.Level < levelMessageTTL {
		return fmt.Errorf("%w: %w", ErrInvalidOption, jetstream.ErrLimitMarkerTTLNotSupported)
	}
	if opts.Transactions && account.API.Level < levelAtomic {
		return fmt.Errorf("%w: the server does not support atomic batches (2.12 or later does)", ErrInvalidOption)
	}
	if opts.FastIngest && account.API.Level < levelFastIngest {
		return fmt.Errorf("%w: the server does not support fast ingest (2.14 or later does)", ErrInvalidOption)
	}
	return nil
}

func streamConfig(cfg jetstream.KeyValueConfig, opts Options) jetstream.StreamConfig {
	scfg := jetstream.StreamConfig{
		Name:              streamPrefix + cfg.Bucket,
		Description:       cfg.Description,
		MaxMsgsPerSubject: max(int64(cfg.History), 1),
		MaxBytes:          cfg.MaxBytes,
		MaxAge:            cfg.TTL,
		MaxMsgSize:        cfg.MaxValueSize,
		Storage:           cfg.Storage,
		Replicas:          max(cfg.Replicas, 1),
		Placement:         cfg.Placement,
		AllowRollup:       true,
		DenyDelete:        true,
		Duplicates:        duplicateWindow,
		MaxMsgs:           -1,
		MaxConsumers:      -1,
		AllowDirect:       true,
		RePublish:         cfg.RePublish,
		Discard:           jetstream.DiscardNew,
		Metadata:          cfg.Metadata,

		AllowMsgTTL:            cfg.LimitMarkerTTL != 0,
		SubjectDeleteMarkerTTL: cfg.LimitMarkerTTL,
		AllowAtomicPublish:     opts.Transactions,
		AllowBatchPublish:      opts.FastIngest,
	}
	if cfg.Replicas < 0 {
		scfg.Replicas = cfg.Replicas // for the server to refuse
	}
	if scfg.MaxBytes == 0 {
		scfg.MaxBytes = -1
	}
	if scfg.MaxMsgSize == 0 {
		scfg.MaxMsgSize = -1
	}
	if cfg.TTL > 0 && cfg.TTL < duplicateWindow {
		scfg.Duplicates = cfg.TTL
	}
	if cfg.Compression {
		scfg.Compression = jetstream.S2Compression
	}
	switch {
	case cfg.Mirror != nil:
		mirror := *cfg.Mirror
		if !strings.HasPrefix(mirror.Name, streamPrefix) {
			mirror.Name = streamPrefix + mirror.Name
		}
		scfg.Mirror, scfg.MirrorDirect = external(&mirror), true
	case len(cfg.Sources) > 0:
		for _, source := range cfg.Sources {
			scfg.Sources = append(scfg.Sources, external(bucketSource(cfg.Bucket, source)))
		}
		fallthrough
	default:
		scfg.Subjects = []string{keySpace + cfg.Bucket + ".>"}
	}
	return scfg
}

// bucketSource makes the keys of another bucket keys of this one. A source with transforms of
// its own is taken as it is.
func bucketSource(bucket string, source *jetstream.StreamSource) *jetstream.StreamSource {
	if len(source.SubjectTransforms) > 0 {
		return source
	}
	s := *source
	name := strings.TrimPrefix(s.Name, streamPrefix)
	s.Name = streamPrefix + name
	if s.External == nil || name != bucket {
		s.SubjectTransforms = []jetstream.SubjectTransformConfig{{
			Source:      keySpace + name + ".>",
			Destination: keySpace + bucket + ".>",
		}}
	}
	return &s
}

// external names the origin's domain by its API prefix, the form that the server understands.
func external(source *jetstream.StreamSource) *jetstream.StreamSource {
	if source.Domain == "" || source.External != nil {
		return source
	}
	s := *source
	s.External, s.Domain = &jetstream.ExternalStream{APIPrefix: "$JS." + s.Domain + ".API"}, ""
	return &s
}

// update applies what is stated to the configuration as the server holds it. It works on the
// raw JSON, so that a setting which this client has never heard of stays as it is.
func (c *Conn) update(ctx context.Context, cfg jetstream.KeyValueConfig, scfg jetstream.StreamConfig, opts Options) error {
	var current struct {
		Config map[string]json.RawMessage `json:"config"`
	}
	if err := c.apiRequest(ctx, c.api, infoOf+scfg.Name, nil, &current); err != nil {
		return err
	}
	history, err := setting[int64](current.Config, "max_msgs_per_subject")
	if err != nil {
		return err
	}
	if history < 1 {
		return badBucket(scfg.Name) // which a history would cost messages
	}
	wanted, err := stated(cfg, scfg, opts, current.Config)
	if err != nil {
		return err
	}
	changed := false
	for name, value := range wanted {
		if !sameJSON(current.Config[name], value) {
			current.Config[name] = value
			changed = true
		}
	}
	if !changed {
		return nil
	}
	var updated json.RawMessage
	return c.apiRequest(ctx, c.api, "STREAM.UPDATE."+scfg.Name, current.Config, &updated)
}

// stated picks from scfg, the whole translation of cfg, the settings that cfg does not leave
// at zero.
func stated(cfg jetstream.KeyValueConfig, scfg jetstream.StreamConfig, opts Options, current map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	if cfg.Metadata != nil {
		// The server keeps notes of its own among the metadata.
		metadata, err := setting[map[string]string](current, "metadata")
		if err != nil {
			return nil, err
		}
		maps.DeleteFunc(metadata, func(name, _ string) bool { return !strings.HasPrefix(name, "_nats.") })
		if metadata == nil {
			metadata = map[string]string{}
		}
		maps.Copy(metadata, cfg.Metadata)
		scfg.Metadata = metadata
	}
	if cfg.TTL > 0 {
		// The duplicate window must not exceed the age; what is narrower already stays.
		window, err := setting[time.Duration](current, "duplicate_window")
		if err != nil {
			return nil, err
		}
		if window > 0 {
			scfg.Duplicates = min(window, cfg.TTL)
		}
	}
	whole, err := json.Marshal(scfg)
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(whole, &all); err != nil {
		return nil, err
	}
	wanted := map[string]json.RawMessage{}
	for _, setting := range []struct {
		stated bool
		names  []string
	}{
		{cfg.Description != "", []string{"description"}},
		{cfg.MaxValueSize != 0, []string{"max_msg_size"}},
		{cfg.History != 0, []string{"max_msgs_per_subject"}},
		{cfg.TTL != 0, []string{"max_age", "duplicate_window"}},
		{cfg.MaxBytes != 0, []string{"max_bytes"}},
		{cfg.Storage != jetstream.FileStorage, []string{"storage"}},
		{cfg.Replicas != 0, []string{"num_replicas"}},
		{cfg.Placement != nil, []string{"placement"}},
		{cfg.RePublish != nil, []string{"republish"}},
		{cfg.Mirror != nil, []string{"mirror", "mirror_direct"}},
		{len(cfg.Sources) > 0, []string{"sources"}},
		{cfg.Compression, []string{"compression"}},
		{cfg.LimitMarkerTTL != 0, []string{"allow_msg_ttl", "subject_delete_marker_ttl"}},
		{cfg.Metadata != nil, []string{"metadata"}},
		{opts.Transactions, []string{"allow_atomic"}},
		{opts.FastIngest, []string{"allow_batched"}},
	} {
		if setting.stated {
			for _, name := range setting.names {
				wanted[name] = all[name]
			}
		}
	}
	return wanted, nil
}

// setting is one of a configuration as the server holds it, the zero value where it has none.
func setting[V any](config map[string]json.RawMessage, name string) (value V, err error) {
	if raw := config[name]; raw != nil {
		if err = json.Unmarshal(raw, &value); err != nil {
			err = fmt.Errorf("%w: %w", jetstream.ErrInvalidJetStreamResponse, err)
		}
	}
	return value, err
}

func sameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	return reflect.DeepEqual(x, y)
}
