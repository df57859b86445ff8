package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// follower reads a cache's changes on a goroutine of its own, and checks each against those before.
type follower struct {
	t     testing.TB
	pause func() // before each change is taken
	mu    sync.Mutex
	state map[string]jskv.Entry[string] // what it was shown
	steps int
	wrong error
	err   error
	done  chan struct{}

	content  bool   // what comes may be the content at the beginning, in key order
	key      string // of the change before
	revision uint64 // of the newest change
	made     uint64 // times that revisions have begun anew
}

// follow begins with the present content, and ends with the cache.
func follow(t testing.TB, c *jskv.Cache[string]) *follower {
	t.Helper()
	return followAt(t, c, func() {})
}

func followAt(t testing.TB, c *jskv.Cache[string], pause func()) *follower {
	t.Helper()
	f := &follower{t: t, pause: pause, state: map[string]jskv.Entry[string]{}, done: make(chan struct{}), content: true}
	begun := make(chan struct{})
	go func() {
		defer close(f.done)
		seq := c.Changes(context.Background())
		close(begun)
		for change, err := range seq {
			f.take(change, err)
			f.pause()
		}
	}()
	<-begun
	t.Cleanup(func() { c.Close(); <-f.done })
	return f
}

func (f *follower) take(change jskv.Change[string], err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.err = err
		return
	}
	f.steps++
	key := change.New.Key
	shown, was := f.state[key]
	switch {
	case change.Existed != was:
		f.wrong = fmt.Errorf("%s existed: %v, shown %v", key, change.Existed, was)
	case was && (change.Old.Revision != shown.Revision || change.Old.Value != shown.Value || change.Old.Key != key):
		f.wrong = fmt.Errorf("%s: Old is %+v, shown was %+v", key, change.Old, shown)
	case !change.Existed && !change.Exists:
		f.wrong = fmt.Errorf("%s came and went unseen, and was told", key)
	case !change.Exists && change.New.Value != "":
		f.wrong = fmt.Errorf("%s is gone and has a value: %+v", key, change.New)
	}
	f.order(change)
	if change.Exists {
		f.state[key] = change.New
	} else {
		delete(f.state, key)
	}
}

// order notes whether changes come in revision order, and how often that began anew.
func (f *follower) order(change jskv.Change[string]) {
	new := change.New
	f.content = f.content && change.Exists && !change.Existed && new.Key > f.key
	f.key = new.Key
	if f.content || new.Revision == 0 { // in key order, or a key whose marker is gone
		return
	}
	if new.Revision <= f.revision {
		f.made++
	}
	f.revision = new.Revision
}

// values is what the reader knows, and how many changes told it.
func (f *follower) values() (values map[string]string, steps int, wrong error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	values = make(map[string]string, len(f.state))
	for key, e := range f.state {
		values[key] = e.Value
	}
	return values, f.steps, f.wrong
}

// requireState waits until the reader knows that.
func (f *follower) requireState(want map[string]string) {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		got, _, wrong := f.values()
		return maps.Equal(got, want) || wrong != nil
	}, soon, tick)
	_, _, wrong := f.values()
	require.NoError(f.t, wrong)
}

// told is a change in short.
func told(c jskv.Change[string]) string {
	side := func(there bool, e jskv.Entry[string]) string {
		if !there {
			return "-"
		}
		return fmt.Sprintf("%s@%d", e.Value, e.Revision)
	}
	return fmt.Sprintf("%s: %s to %s", c.New.Key, side(c.Existed, c.Old), side(c.Exists, c.New))
}

func TestChangesBeginWithTheContentAndGoOnInRevisionOrder(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("1", "b", "a")
	c := newCache(t, r.Bucket)
	var all []string
	for change, err := range c.Changes(testContext(t)) {
		require.NoError(t, err)
		all = append(all, told(change))
		if len(all) == 2 {
			r.put("c", "3")
			r.put("a", "4")
			r.del("b")
			requireWait(t, c, r.purge("c"))
			requireWait(t, c, r.put("d", "7"))
		}
		if change.New.Key == "d" {
			break
		}
	}
	require.Equal(t, []string{"a: - to 1@2", "b: - to 1@1", "a: 1@2 to 4@4", "b: 1@1 to -", "d: - to 7@7"}, all)
}

func TestAChangeThatDeletesHasTheMarker(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("1", "a", "b")
	c := newCache(t, r.Bucket)
	operations := map[string]jskv.Operation{}
	for change, err := range c.Changes(testContext(t)) {
		require.NoError(t, err)
		if change.Exists && change.New.Key == "b" {
			r.del("a")
			r.purge("b")
		}
		if !change.Exists {
			operations[fmt.Sprint(change.New.Key, change.New.Revision)] = change.New.Operation
		}
		if len(operations) == 2 {
			break
		}
	}
	require.Equal(t, map[string]jskv.Operation{"a3": jskv.OpDelete, "b4": jskv.OpPurge}, operations)
}

// Changes that come while a late reader still takes the content must fit what it is shown.
func TestWhatChangesWhileALateReaderTakesTheContent(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	keys := r.fill(500, "v")
	c := newCache(t, r.Bucket)
	n := 0
	late := followAt(t, c, func() {
		switch n++; n {
		case 100: // some of these were taken already and some were not
			for i := 0; i < len(keys); i += 50 {
				r.put(keys[i], "w")
				r.del(keys[i+1])
			}
			r.put("z.new", "n")
			requireWait(t, c, r.del(keys[0]))
		}
	})
	want := map[string]string{"z.new": "n"}
	for i, key := range keys {
		switch {
		case i == 0, i%50 == 1:
		case i%50 == 0:
			want[key] = "w"
		default:
			want[key] = "v"
		}
	}
	late.requireState(want)
}

func TestASlowReaderSeesTheNewestStateOfAKeyOnce(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 64})
	r.store("0", "a", "b")
	c := newCache(t, r.Bucket)
	quick := follow(t, c)
	quick.requireState(map[string]string{"a": "0", "b": "0"})
	goOn := make(chan struct{})
	slow := followAt(t, c, func() { <-goOn })
	require.Eventually(t, func() bool { _, steps, _ := slow.values(); return steps == 1 }, soon, tick)
	for i := range 30 {
		r.put("a", fmt.Sprint("a", i))
		r.put("unseen", "came")
		r.put("kept", fmt.Sprint("k", i))
		r.del("unseen")
		requireWait(t, c, r.put("b", fmt.Sprint("b", i)))
	}
	end := map[string]string{"a": "a29", "b": "b29", "kept": "k29"}
	quick.requireState(end)
	_, steps, _ := slow.values()
	require.Equal(t, 1, steps, "it has not moved, and nobody waited for it")
	close(goOn)
	slow.requireState(end)
	_, steps, _ = slow.values()
	require.Equal(t, 2+3, steps, "the content, and each key that has changed once")
}

func TestAReaderThatPanicsHurtsOnlyItself(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("0", "a")
	c := newCache(t, r.Bucket)
	other := follow(t, c)
	for _, when := range []int{1, 2} { // in the content, and in what follows
		require.PanicsWithValue(t, "of its own", func() {
			n := 0
			for range c.Changes(testContext(t)) {
				if n++; n == when {
					panic("of its own")
				}
				r.put("a", "1")
			}
		})
	}
	requireWait(t, c, r.put("a", "2"))
	other.requireState(map[string]string{"a": "2"})
	requireCopy(t, r.Bucket, c)
}

func TestChangesEndWithTheirContextAndTheCacheGoesOn(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("0", "a", "b")
	c := newCache(t, r.Bucket)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := 0
	for _, err := range c.Changes(ctx) {
		if n++; n == 1 {
			require.NoError(t, err)
			cancel()
			continue
		}
		requireIs(t, err, context.Canceled)
		requireNames(t, err, "changes of b")
	}
	require.Equal(t, 2, n)
	waiting, cancel := context.WithCancel(context.Background())
	defer cancel()
	n = 0
	for _, err := range c.Changes(waiting) {
		if n++; n == 2 {
			time.AfterFunc(30*time.Millisecond, cancel)
		}
		if n > 2 {
			requireIs(t, err, context.Canceled)
		} else {
			require.NoError(t, err)
		}
	}
	require.Equal(t, 3, n)
	requireWait(t, c, r.put("a", "1"))
}

func TestChangesReportAValueThatDoesNotDecodeAndGoOn(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("1", "a")
	c := newCache(t, jskv.As(r.Bucket, jskv.JSON[int]()))
	var all []string
	writes := []func(){
		func() { r.put("a", "one") },   // goes, with the error
		func() { r.put("new", "two") }, // never came, and is told all the same
		func() { r.put("a", "3") },     // is back
		func() { c.Close() },
	}
	for change, err := range c.Changes(testContext(t)) {
		if err != nil {
			var undecoded *jskv.DecodeError
			require.ErrorAs(t, err, &undecoded)
			require.Equal(t, change.New.Revision, undecoded.Revision)
		}
		all = append(all, fmt.Sprintf("%s@%d: %v to %v, error %v", change.New.Key, change.New.Revision, change.Existed, change.Exists, err != nil))
		writes[len(all)-1]()
	}
	require.Equal(t, []string{
		"a@1: false to true, error false",
		"a@2: true to false, error true",
		"new@3: false to false, error true",
		"a@4: false to true, error false",
	}, all)
}

func TestChangesTellWhatAnInterruptionHid(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	s.store("1", "stays", "changes", "goes")
	c := newCache(t, s.Bucket)
	seen := follow(t, c)
	seen.requireState(map[string]string{"stays": "1", "changes": "1", "goes": "1"})
	s.proxy.Refuse()
	s.proxy.Reset()
	beside := openBucket(t, s.admin)
	mustPut(t, beside, "changes", "2")
	_, err := beside.Delete(testContext(t), "goes")
	require.NoError(t, err)
	_, err = beside.PurgeDeletes(testContext(t), 0)
	require.NoError(t, err)
	s.proxy.Accept()
	seen.requireState(map[string]string{"stays": "1", "changes": "2"})
	_, steps, _ := seen.values()
	require.Equal(t, 5, steps, "what stayed is not told again")
}

func TestAChangeWhoseMarkerIsGoneHasOnlyTheNameOfTheKey(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.put("expires", "v")
	c := newCache(t, r.Bucket)
	for change, err := range c.Changes(testContext(t)) {
		require.NoError(t, err)
		if change.Exists { // from now on it is on its way out
			setConfig(t, r.admin, "KV_b", map[string]any{"max_age": time.Second, "duplicate_window": time.Second})
			continue
		}
		require.Equal(t, jskv.Entry[string]{Bucket: "b", Key: "expires"}, change.New)
		require.Equal(t, "v", change.Old.Value)
		break
	}
}

func TestKeysThatAreGoneTogetherAreToldInTheirOrder(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	keys := r.fill(100, "v")
	c := newCache(t, r.Bucket)
	var gone []string
	for change, err := range c.Changes(testContext(t)) {
		require.NoError(t, err)
		switch {
		case !change.Exists:
			gone = append(gone, change.New.Key)
		case change.New.Key == keys[len(keys)-1]:
			require.NoError(t, jskv.DeleteBucket(testContext(t), r.admin, "b"))
		}
		if len(gone) == len(keys) {
			break
		}
	}
	require.Equal(t, keys, gone)
}

// halfDecodes is a codec that returns something beside its error.
type halfDecodes struct{}

func (halfDecodes) Encode(value string) ([]byte, error) { return []byte(value), nil }

func (halfDecodes) Decode(data []byte) (string, error) {
	if string(data) != "whole" {
		return string(data), errors.New("broken")
	}
	return string(data), nil
}

func TestAChangeToAValueThatDoesNotDecodeHasNoValue(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.put("k", "whole")
	c := newCache(t, jskv.As(r.Bucket, halfDecodes{}))
	for change, err := range c.Changes(testContext(t)) {
		if change.Exists {
			r.put("k", "half")
			continue
		}
		var undecoded *jskv.DecodeError
		require.ErrorAs(t, err, &undecoded)
		require.Zero(t, change.New.Value)
		break
	}
}

func TestAValueThatDoesNotDecodeIsReportedOnce(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("1", "first")
	r.store("two", "bad")
	c := newCache(t, jskv.As(r.Bucket, jskv.JSON[int]()))
	var all []string
	steps := []func(){
		func() { r.put("bad", "three") },
		func() {
			jskvtest.DeleteConsumers(t, r.admin, "b") // a new snapshot finds it again
			requireWait(t, c, r.put("last", "4"))
		},
		c.Close,
	}
	for change, err := range c.Changes(testContext(t)) {
		all = append(all, fmt.Sprintf("%s@%d, error %v", change.New.Key, change.New.Revision, err != nil))
		require.LessOrEqual(t, len(all), len(steps), all)
		steps[len(all)-1]()
	}
	require.Equal(t, []string{"first@1, error false", "bad@3, error true", "last@4, error false"}, all)
	require.Len(t, c.Undecoded(), 1)
}

// Else a reader that never reads would keep every such key for ever.
func TestAKeyThatDidNotDecodeAndIsGoneIsNotToldToASlowReader(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]func(s *scene, key string){
		"with a marker": func(s *scene, key string) { s.del(key) },
		"without one": func(s *scene, key string) {
			stream, err := s.admin.Stream(testContext(s.t), s.Stream().Name())
			require.NoError(s.t, err)
			require.NoError(s.t, stream.Purge(testContext(s.t), jetstream.WithPurgeSubject(s.Stream().Subject(key))))
			jskvtest.DeleteConsumers(s.t, s.admin, "b")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, jetstream.KeyValueConfig{})
			s.store("1", "first")
			c := newCache(t, jskv.As(s.Bucket, jskv.JSON[int]()))
			next, stop := iter.Pull2(c.Changes(testContext(t)))
			defer stop()
			change, err, _ := next()
			require.NoError(t, err)
			require.Equal(t, "first", change.New.Key)
			requireWait(t, c, s.put("first", "one"))
			requireWait(t, c, s.put("bad", "two"))
			gone(s, "first")
			gone(s, "bad")
			eventually(t, func() bool { return len(c.Undecoded()) == 0 }, "they are gone")
			requireWait(t, c, s.put("last", "3"))
			change, err, _ = next()
			require.NoError(t, err)
			require.Equal(t, "first", change.New.Key)
			require.True(t, change.Existed && !change.Exists)
			change, err, _ = next()
			require.NoError(t, err)
			require.Equal(t, "last", change.New.Key)
		})
	}
}
