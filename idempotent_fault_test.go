package jskv_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// A server that restarts knows the ids of what is still stored. What was overwritten it has
// forgotten, and a write that is sent again looks new to it.
func TestAnIdempotentWriteThatItsServerHasForgottenIsUnknown(t *testing.T) {
	t.Parallel()
	near, server := newBucket(t, jetstream.KeyValueConfig{})
	all := loseAll(t, near, []string{server.URL()}, jskv.WithIdempotentWrites())
	for _, l := range all {
		mustPut(t, near, l.key, "later")
	}
	stored := lastRevision(t, near)
	server.Restart()
	eventually(t, func() bool { return second(near.Get(testContext(t), "Put")) == nil }, "the server is back")
	for _, l := range all {
		l.proxy.Accept()
		<-l.done
		require.ErrorIs(t, l.err, jskv.ErrOutcomeUnknown, l.name)
		require.False(t, jskv.SafeToRetry(l.err))
		require.Zero(t, l.revision)
		require.Equal(t, "Put later", history(t, near, l.key), l.name)
	}
	require.Equal(t, stored, lastRevision(t, near), "nothing was stored again")
}

// So do replicas, of which one leads that did not before.
func TestAnIdempotentWriteThatItsReplicasHaveForgottenIsUnknown(t *testing.T) {
	t.Parallel()
	cluster, near := newReplicatedBucket(t, jetstream.KeyValueConfig{})
	all := loseAll(t, near, []string{cluster.Server(0).URL()}, jskv.WithIdempotentWrites())
	for i, l := range all {
		mustPut(t, near, l.key, "later")
		if i%2 == 0 {
			_, err := near.Delete(testContext(t), l.key)
			require.NoError(t, err)
		}
	}
	stored := lastRevision(t, near)
	_, err := near.PurgeDeletes(testContext(t), 0)
	require.NoError(t, err)
	cluster.WaitCurrent("b") // a follower that has yet to purge them remembers their ids
	cluster.Restart()
	for i, l := range all {
		l.proxy.Accept()
		<-l.done
		requireIs(t, l.err, jskv.ErrOutcomeUnknown)
		// Who leads now may still be purging what its predecessor has.
		eventually(t, func() bool { return history(t, near, l.key) == []string{"", "Put later"}[i%2] }, l.name)
	}
	require.Equal(t, stored, lastRevision(t, near), "nothing was stored again")
}

// The server has restarted, and still has what was written.
func TestAnIdempotentWriteIsFoundByAServerThatRestarted(t *testing.T) {
	t.Parallel()
	near, server := newBucket(t, jetstream.KeyValueConfig{})
	all := loseAll(t, near, []string{server.URL()}, jskv.WithIdempotentWrites())
	stored := lastRevision(t, near)
	server.Restart()
	for _, l := range all {
		l.proxy.Accept()
		<-l.done
		require.NoError(t, l.err, l.name)
		require.Equal(t, l.made, l.revision, l.name)
	}
	require.Equal(t, stored, lastRevision(t, near), "nothing was stored again")
}

// The key was deleted, and the marker purged: that it is not there does not tell that it never was.
func TestAnIdempotentWriteThatWasPurgedAndForgottenIsUnknown(t *testing.T) {
	t.Parallel()
	near, server := newBucket(t, jetstream.KeyValueConfig{})
	all := loseAll(t, near, []string{server.URL()}, jskv.WithIdempotentWrites())
	for _, l := range all {
		_, err := near.Delete(testContext(t), l.key)
		require.NoError(t, err)
	}
	stored := lastRevision(t, near)
	_, err := near.PurgeDeletes(testContext(t), 0)
	require.NoError(t, err)
	server.Restart()
	for _, l := range all {
		l.proxy.Accept()
		<-l.done
		requireIs(t, l.err, jskv.ErrOutcomeUnknown)
		require.Empty(t, history(t, near, l.key), l.name)
	}
	require.Equal(t, stored, lastRevision(t, near), "nothing was stored again")
}

// Of a bucket that nothing is missing from, a key that is not there was not written.
func TestAnIdempotentWriteThatARestartedServerCannotHaveStoredIsSentAgain(t *testing.T) {
	t.Parallel()
	near, server := newBucket(t, jetstream.KeyValueConfig{History: 10})
	l := lose(t, 0, near, jskvtest.ToServer, []string{server.URL()}, jskv.WithIdempotentWrites())
	mustPut(t, near, "other", "v")
	server.Restart()
	l.proxy.Accept()
	<-l.done
	require.NoError(t, l.err)
	require.EqualValues(t, 2, l.revision)
}

// The client's server is not the bucket's: it does not restart when that one does.
func TestAnIdempotentWriteThatAServerOfAnotherDomainHasForgottenIsUnknown(t *testing.T) {
	t.Parallel()
	hub, leaf := hubAndLeaf(t)
	near := createBucket(t, hub.JetStream(), jetstream.KeyValueConfig{})
	proxy := jskvtest.NewProxy(t, leaf.URL())
	js, err := jetstream.NewWithDomain(firstOf(t, proxy.URL()).Conn(), "hub")
	require.NoError(t, err)
	far, err := jskv.OpenBucket(testContext(t), js, "b", jskv.String(), jskv.WithIdempotentWrites())
	require.NoError(t, err)
	lost := proxy.CutOn(jskvtest.ToClient, `{"stream":"KV_b"`)
	proxy.Refuse()
	done := putMine(t, far)
	<-lost
	mustPut(t, near, "k", "theirs")
	hub.Restart()
	eventually(t, func() bool { return leaf.NATS().NumLeafNodes() == 1 }, "the leaf is back at the hub")
	proxy.Accept()
	requireIs(t, <-done, jskv.ErrOutcomeUnknown)
	require.Equal(t, "Put theirs", history(t, near, "k"))
}

// putMine puts "mine", which takes until the answer that is lost has been looked for.
func putMine(t *testing.T, b *jskv.Bucket[string]) (done <-chan error) {
	t.Helper()
	ended := make(chan error)
	go func() { ended <- second(b.Put(testContext(t), "k", "mine")) }()
	return ended
}

// The bucket was deleted and made again, which a handle does not notice while it writes: the revisions
// that it was acknowledged for are of the old one, and say nothing of those of the new.
func TestAnIdempotentWriteThatTheServerOfANewBucketHasForgottenIsUnknown(t *testing.T) {
	t.Parallel()
	_, server := newBucket(t, jetstream.KeyValueConfig{})
	proxy := jskvtest.NewProxy(t, server.URL())
	far := openIdempotent(t, firstOf(t, proxy.URL()))
	for range 20 {
		mustPut(t, far, "old", "v")
	}
	js := server.JetStream()
	require.NoError(t, jskv.DeleteBucket(testContext(t), js, "b"))
	near := createBucket(t, js, jetstream.KeyValueConfig{})
	lost := proxy.CutOn(jskvtest.ToClient, `{"stream":"KV_b","seq":1`)
	proxy.Refuse()
	done := putMine(t, far)
	<-lost
	mustPut(t, near, "k", "theirs")
	server.Restart()
	proxy.Accept()
	requireIs(t, <-done, jskv.ErrOutcomeUnknown)
	require.Equal(t, "Put theirs", history(t, near, "k"))
	require.EqualValues(t, 2, lastRevision(t, near), "nothing was stored again")
}
