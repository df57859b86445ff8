// Command config has feature flags that change while a program runs: the program decides from a
// local copy, which a cache keeps current, and is told of every change.
//
// It starts a server of its own inside the program. With NATS_URL set it uses that server, and
// refuses to touch a bucket "flags" that is there already.
package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/embedded"
)

const bucket = "flags"

// tooOld is for how long the server may be silent before the program does not trust its copy any more.
const tooOld = 10 * time.Second

// Flag is what the bucket stores of one feature, whose name is the key.
type Flag struct {
	Percent int    `json:"percent"` // of the users who get the feature
	Owner   string `json:"owner"`
}

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	js, closeServer, err := connect(os.Getenv("NATS_URL"))
	if err != nil {
		return err
	}
	defer closeServer()
	if _, err := jskv.OpenBucket(ctx, js, bucket, jskv.JSON[Flag]()); err == nil {
		return fmt.Errorf("a bucket %q is already there; this program would write to it and remove it", bucket)
	} else if !errors.Is(err, jskv.ErrBucketNotFound) {
		return err
	}
	flags, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: bucket}, jskv.JSON[Flag]())
	if err != nil {
		return err
	}
	defer func() {
		// The program's context may be what ended it.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = errors.Join(err, jskv.DeleteBucket(ctx, js, bucket))
	}()

	op := &operator{flags: flags}
	if err := op.set(ctx, "checkout.express", Flag{0, "shop"}); err != nil {
		return err
	}
	if err := op.set(ctx, "search.fuzzy", Flag{100, "search"}); err != nil {
		return err
	}
	s, err := startService(ctx, flags)
	if err != nil {
		return err
	}
	defer s.stop()
	op.service = s
	for _, step := range []func(context.Context) error{s.show, op.rollOut, op.remove, op.mistake, op.owners, s.load} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// connect uses the server at url, or starts one in this program that is gone when it ends.
func connect(url string) (jetstream.JetStream, func(), error) {
	if url != "" {
		nc, err := nats.Connect(url, nats.Timeout(10*time.Second))
		if err != nil {
			return nil, nil, fmt.Errorf("NATS_URL=%s: %w", url, err)
		}
		js, err := jetstream.New(nc)
		return js, nc.Close, err
	}
	dir, err := os.MkdirTemp("", "jskv-config-")
	if err != nil {
		return nil, nil, err
	}
	remove := func() {
		if err := os.RemoveAll(dir); err != nil {
			log.Print(err)
		}
	}
	server, err := embedded.Start(dir)
	if err != nil {
		remove()
		return nil, nil, err
	}
	stop := func() {
		server.Shutdown()
		remove()
	}
	js, err := server.JetStream()
	if err != nil {
		stop()
		return nil, nil, err
	}
	return js, stop, nil
}

// service is the program that the flags are for.
type service struct {
	flags   *jskv.Cache[Flag]
	byOwner *jskv.Index[Flag]
	logging sync.WaitGroup
	logged  chan string   // one line for each change
	stopped chan struct{} // closed when nobody reads them any more
}

func startService(ctx context.Context, flags *jskv.Bucket[Flag]) (*service, error) {
	cache, err := flags.Cache(ctx)
	if err != nil {
		return nil, err
	}
	s := &service{flags: cache, logged: make(chan string), stopped: make(chan struct{})}
	s.byOwner = jskv.NewIndex(cache, func(e jskv.Entry[Flag]) []string { return []string{e.Value.Owner} })
	s.logging.Go(func() { s.log(ctx) }) // ends with stop
	for range cache.Len() {             // the present content comes first
		if err := s.printNext(ctx); err != nil {
			s.stop()
			return nil, err
		}
	}
	return s, nil
}

func (s *service) printNext(ctx context.Context) error {
	select {
	case line := <-s.logged:
		fmt.Println(line)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *service) stop() {
	close(s.stopped)
	s.flags.Close() // ends Changes too
	s.logging.Wait()
}

// enabled decides for one user. It sends no request, and is off where there is no flag.
func (s *service) enabled(feature, user string) bool {
	flag, ok := s.flags.Get(feature)
	if !ok {
		return false
	}
	h := fnv.New32a()
	h.Write([]byte(feature + user))
	return int(h.Sum32()%100) < flag.Percent
}

// log tells what changes.
func (s *service) log(ctx context.Context) {
	for change, err := range s.flags.Changes(ctx) {
		var undecoded *jskv.DecodeError
		line := ""
		switch {
		case errors.As(err, &undecoded):
			line = fmt.Sprintf("log: %s is off, its value is not a flag: %s", change.New.Key, undecoded.Data)
		case err != nil:
			line = fmt.Sprintf("log: %v", err)
		case !change.Existed:
			line = fmt.Sprintf("log: %s is at %d %%", change.New.Key, change.New.Value.Percent)
		case !change.Exists:
			line = fmt.Sprintf("log: %s is gone", change.New.Key)
		default:
			line = fmt.Sprintf("log: %s goes from %d %% to %d %%", change.New.Key, change.Old.Value.Percent, change.New.Value.Percent)
		}
		select {
		case s.logged <- line:
		case <-s.stopped:
			return
		}
	}
}

// show prints how many of a thousand users get each feature.
func (s *service) show(context.Context) error {
	for feature := range s.flags.All() {
		fmt.Printf("  %s: %d of 1000 users\n", feature, s.count(feature))
	}
	return nil
}

func (s *service) count(feature string) (n int) {
	for user := range 1000 {
		if s.enabled(feature, fmt.Sprint("user", user)) {
			n++
		}
	}
	return n
}

// load decides as often as a busy program does.
func (s *service) load(context.Context) error {
	const workers, each = 4, 50_000
	wrong := make([]error, workers)
	var working sync.WaitGroup
	for i := range workers {
		working.Go(func() {
			for range each {
				if !s.enabled("search.fuzzy", "sue") {
					wrong[i] = errors.New("search.fuzzy was off for sue")
				}
			}
		})
	}
	working.Wait()
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	if stale := s.flags.Stale(); stale > tooOld {
		return fmt.Errorf("the server is silent for %v", stale)
	}
	fmt.Printf("%d decisions by %d workers, and no request to the server\n", workers*each, workers)
	return nil
}

// operator changes the flags, from wherever.
type operator struct {
	flags   *jskv.Bucket[Flag]
	service *service
}

func (op *operator) set(ctx context.Context, feature string, flag Flag) error {
	revision, err := op.flags.Put(ctx, feature, flag)
	if err != nil {
		return err
	}
	return op.effective(ctx, revision)
}

// effective waits until the service decides by what was written.
func (op *operator) effective(ctx context.Context, revision uint64) error {
	if op.service == nil {
		return nil
	}
	if err := op.service.flags.Wait(ctx, revision); err != nil {
		return err
	}
	return op.service.printNext(ctx)
}

// rollOut turns a feature on for more and more users.
func (op *operator) rollOut(ctx context.Context) error {
	for _, percent := range []int{10, 50, 100} {
		if err := op.set(ctx, "checkout.express", Flag{percent, "shop"}); err != nil {
			return err
		}
		fmt.Printf("  checkout.express: %d of 1000 users\n", op.service.count("checkout.express"))
	}
	return nil
}

func (op *operator) remove(ctx context.Context) error {
	revision, err := op.flags.Delete(ctx, "checkout.express")
	if err != nil {
		return err
	}
	if err := op.effective(ctx, revision); err != nil {
		return err
	}
	fmt.Printf("  checkout.express: %d of 1000 users\n", op.service.count("checkout.express"))
	return nil
}

// mistake stores a value that is not a flag, as any client of the bucket can. That is reported, the
// feature is off, and the others stay as they are.
func (op *operator) mistake(ctx context.Context) error {
	if err := op.set(ctx, "search.voice", Flag{100, "search"}); err != nil {
		return err
	}
	revision, err := jskv.As(op.flags, jskv.String()).Put(ctx, "search.voice", "on")
	if err != nil {
		return err
	}
	if err := op.effective(ctx, revision); err != nil {
		return err
	}
	if err := op.service.show(ctx); err != nil {
		return err
	}
	return op.set(ctx, "search.voice", Flag{20, "search"})
}

func (op *operator) owners(context.Context) error {
	fmt.Println("of the team search:")
	for _, flag := range op.service.byOwner.Find("search") {
		fmt.Printf("  %s, revision %d\n", flag.Key, flag.Revision)
	}
	return nil
}
