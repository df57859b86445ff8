package main

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/examples/internal/exampletest"
	"github.com/seed646b090f/jskv/jskvtest"
)

// output is what the program must print, byte for byte.
const output = `1050 users, 0 of them in the old form, 200 logins
user-0 is now {"name":"user-0","email":"user-0@example.com","logins":1}
run again: 0 converted
`

func TestMain(m *testing.M) { os.Exit(exampletest.Main(m)) }

func TestTheMigrationPrintsWhatItMust(t *testing.T) {
	t.Parallel()
	exampletest.Manners(t, func(t *testing.T, got exampletest.Result) {
		require.Regexp(t, `^\rsaved \d+ of \d+\r(.|\s)*\rconverted \d+ of \d+\n$`, got.Stderr, "progress")
		got.Stderr = ""
		exampletest.Prints(output)(t, got)
	}, "users", "users-backup")
}

// Somebody else writes what is in neither form.
func TestTheBucketsAreRemovedOnAnErrorToo(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	js := srv.JetStream()
	got := exampletest.Run(t, exampletest.Meanwhile(t, srv.URL(), `"seq":1}`, func() {
		_, err := js.Publish(t.Context(), "$KV.users.garbage", []byte("neither"))
		assert.NoError(t, err)
	}))
	require.NotZero(t, got.Exit)
	require.Empty(t, got.Stdout)
	require.Contains(t, got.Stderr, "garbage at revision")
	require.Empty(t, exampletest.Streams(t, js), "it removed its buckets")
}

// newMigration makes both buckets, with users in the old form.
func newMigration(t *testing.T, users int) *migration {
	t.Helper()
	js := jskvtest.NewServer(t).JetStream()
	for _, name := range []string{bucket, backup} {
		_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: name})
		require.NoError(t, err)
	}
	m, err := open(t.Context(), js, io.Discard)
	require.NoError(t, err)
	_, err = m.stored.PutMany(t.Context(), lines("user", users))
	require.NoError(t, err)
	return m
}

func TestAValueThatWasWrittenSinceItWasReadIsNotReplaced(t *testing.T) {
	t.Parallel()
	m := newMigration(t, 3)
	old, err := m.old(t.Context())
	require.NoError(t, err)
	require.Len(t, old, 3)
	require.NoError(t, m.login(t.Context(), "user-0"))
	_, err = m.stored.Put(t.Context(), "user-1", []byte("Sue <sue@example.com>"))
	require.NoError(t, err)
	_, err = m.users.Delete(t.Context(), "user-2")
	require.NoError(t, err)

	converted, err := m.convert(t.Context(), old)
	require.NoError(t, err)
	require.Zero(t, converted)
	converted, err = m.migrate(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, converted)

	users, err := m.users.GetMany(t.Context(), "user-0", "user-1", "user-2")
	require.NoError(t, err)
	require.Len(t, users, 2)
	require.Equal(t, User{"user-0", "user-0@example.com", 1}, users["user-0"].Value)
	require.Equal(t, User{"Sue", "sue@example.com", 0}, users["user-1"].Value)
}

// progress is told how far a migration has come.
type progress func(line string)

func (p progress) Write(line []byte) (int, error) {
	p(string(line))
	return len(line), nil
}

func TestAMigrationThatWasInterruptedIsDoneByTheNext(t *testing.T) {
	t.Parallel()
	const users = 500
	m := newMigration(t, users)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m.progress = progress(func(line string) {
		if strings.Contains(line, "converted") { // some, for the first time
			cancel()
		}
	})
	_, err := m.migrate(ctx)
	require.ErrorIs(t, err, context.Canceled)
	left, err := m.old(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, left)
	require.Less(t, len(left), users)

	_, err = m.migrate(t.Context())
	require.NoError(t, err)
	left, err = m.old(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)
	saved := 0
	for entry, err := range m.backup.Entries(t.Context()) {
		require.NoError(t, err)
		require.True(t, isOld(entry.Value), "%s was replaced in the backup: %s", entry.Key, entry.Value)
		saved++
	}
	require.Equal(t, users, saved)
}

func TestWhatCannotBeReadStaysAndIsReported(t *testing.T) {
	t.Parallel()
	m := newMigration(t, 2)
	_, err := m.stored.Put(t.Context(), "garbage", []byte("neither"))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	converted, err := m.migrate(ctx)
	require.ErrorContains(t, err, "garbage at revision 3")
	require.Equal(t, 2, converted)
	value, err := m.stored.Get(ctx, "garbage")
	require.NoError(t, err)
	require.Equal(t, "neither", string(value))
}
