// Command migrate changes the form in which a bucket stores its values, from lines of text to JSON,
// while other programs write to it. It may be interrupted, and it may be run again.
//
// It starts a server of its own inside the program. With NATS_URL set it uses that server, and
// refuses to touch buckets "users" and "users-backup" that are there already.
//
// # How it stays safe
//
// First every program gets a codec that reads both forms and writes the new one: codec here. Only
// then the values are converted, in place. A conversion is a read and a write, and somebody may
// write in between; Put, and so PutMany, would replace what he wrote by the conversion of what was
// there before him. So a value is converted by an Update of the very revision that was read. If
// that is not the newest any more, nothing happens: the new value is in the new form, or the next
// round converts it. A second run finds nothing to do.
//
// PutMany is right for the backup of the old values: nobody else writes to that bucket.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"net/mail"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/embedded"
)

const (
	bucket = "users"
	backup = "users-backup"
)

// User is the new form of a value. The old one was a line: Sue Miller <sue@example.com>
type User struct {
	Name   string `json:"name"`
	Email  string `json:"email"`
	Logins int    `json:"logins"`
}

// codec reads both forms and writes the new one.
type codec struct{ jskv.Codec[User] }

func (c codec) Decode(data []byte) (User, error) {
	if isOld(data) {
		return parseOld(data)
	}
	return c.Codec.Decode(data)
}

func isOld(data []byte) bool { return !bytes.HasPrefix(data, []byte("{")) }

func parseOld(data []byte) (User, error) {
	address, err := mail.ParseAddress(string(data))
	if err != nil {
		return User{}, err
	}
	return User{Name: address.Name, Email: address.Address}, nil
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
	for _, name := range []string{bucket, backup} {
		if _, err := jskv.OpenBucket(ctx, js, name, jskv.Bytes()); err == nil {
			return fmt.Errorf("a bucket %q is already there; this program would write to it and remove it", name)
		} else if !errors.Is(err, jskv.ErrBucketNotFound) {
			return err
		}
	}
	for _, name := range []string{bucket, backup} {
		if _, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: name}, jskv.Bytes()); err != nil {
			return err
		}
		defer func() {
			// The program's context may be what ended it.
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			err = errors.Join(err, jskv.DeleteBucket(ctx, js, name))
		}()
	}
	m, err := open(ctx, js, os.Stderr) // what is on stdout is the result
	if err != nil {
		return err
	}
	return m.demonstrate(ctx)
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
	dir, err := os.MkdirTemp("", "jskv-migrate-")
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

// migration is the bucket in its new form, the same bucket as the bytes that it stores, and what
// it stored before.
type migration struct {
	users    *jskv.Bucket[User]
	stored   *jskv.Bucket[[]byte]
	backup   *jskv.Bucket[[]byte]
	progress io.Writer
}

func open(ctx context.Context, js jetstream.JetStream, progress io.Writer) (*migration, error) {
	users, err := jskv.OpenBucket(ctx, js, bucket, jskv.Codec[User](codec{jskv.JSON[User]()}))
	if err != nil {
		return nil, err
	}
	old, err := jskv.OpenBucket(ctx, js, backup, jskv.Bytes())
	if err != nil {
		return nil, err
	}
	return &migration{users: users, stored: jskv.As(users, jskv.Bytes()), backup: old, progress: progress}, nil
}

// migrate works in rounds, until one finds nothing in the old form. It returns how many values it
// converted.
func (m *migration) migrate(ctx context.Context) (converted int, err error) {
	for {
		old, err := m.old(ctx)
		if err != nil || len(old) == 0 {
			return converted, err
		}
		if err := m.save(ctx, old); err != nil {
			return converted, err
		}
		n, err := m.convert(ctx, old)
		converted += n
		if err != nil {
			return converted, err
		}
	}
}

// old lists what is in the old form. It keeps all of it in memory: for a bucket that is too large
// for that, work through one filter after the other.
func (m *migration) old(ctx context.Context) ([]jskv.Entry[[]byte], error) {
	var old []jskv.Entry[[]byte]
	for entry, err := range m.stored.Entries(ctx) {
		if err != nil {
			return nil, err
		}
		if isOld(entry.Value) {
			old = append(old, entry)
		}
	}
	return old, nil
}

// save copies what is going to be converted. A second run copies only what was written in the old
// form since, so it does not replace an old value by a converted one.
func (m *migration) save(ctx context.Context, old []jskv.Entry[[]byte]) error {
	_, err := m.backup.PutMany(ctx, values(old), jskv.Progress(func(done int) {
		m.tell("saved", done, len(old))
	}))
	return err
}

func values(entries []jskv.Entry[[]byte]) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, entry := range entries {
			if !yield(entry.Key, entry.Value) {
				return
			}
		}
	}
}

// convert writes old values in the new form, where nobody has written since they were read. It
// goes on behind a value that it cannot read, and leaves that as it is. (Values that expire would
// need their TTL again: a write without one makes them permanent.)
func (m *migration) convert(ctx context.Context, old []jskv.Entry[[]byte]) (converted int, err error) {
	var unreadable []error
	for i, entry := range old {
		m.tell("converted", i+1, len(old))
		user, err := parseOld(entry.Value)
		if err != nil {
			unreadable = append(unreadable, fmt.Errorf("%s at revision %d: %w", entry.Key, entry.Revision, err))
			continue
		}
		switch _, err := m.users.Update(ctx, entry.Key, user, entry.Revision); {
		case err == nil:
			converted++
		case !errors.Is(err, jskv.ErrRevisionMismatch):
			return converted, err
		}
	}
	return converted, errors.Join(unreadable...)
}

// tell tells a person how far it has come, in tenths, on one line.
func (m *migration) tell(what string, done, of int) {
	if done == of {
		fmt.Fprintf(m.progress, "\r%s %d of %d\n", what, done, of)
	} else if done*10/of > (done-1)*10/of {
		fmt.Fprintf(m.progress, "\r%s %d of %d", what, done, of)
	}
}

const (
	oldUsers = 1000
	newUsers = 50  // who sign up meanwhile with a program that writes the old form
	logins   = 200 // meanwhile, each counted in its user's value
)

// demonstrate migrates a thousand users, while users log in and others sign up, and then again.
func (m *migration) demonstrate(ctx context.Context) error {
	if _, err := m.stored.PutMany(ctx, lines("user", oldUsers)); err != nil {
		return err
	}
	stop := m.others(ctx)
	_, err := m.migrate(ctx)
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	// What was signed up in the old form after the last round is left for this one.
	if _, err := m.migrate(ctx); err != nil {
		return err
	}
	if err := m.report(ctx); err != nil {
		return err
	}
	again, err := m.migrate(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("run again: %d converted\n", again)
	return nil
}

// lines yields users as the old program writes them.
func lines(prefix string, n int) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for i := range n {
			key := fmt.Sprintf("%s-%d", prefix, i)
			if !yield(key, fmt.Appendf(nil, "%s <%s@example.com>", key, key)) {
				return
			}
		}
	}
}

// others are the programs that use the bucket meanwhile. The function that it returns waits for
// their end and tells what went wrong.
func (m *migration) others(ctx context.Context) (stop func() error) {
	errs := make([]error, 2)
	var working sync.WaitGroup
	working.Go(func() {
		for i := 0; i < logins && errs[0] == nil; i++ {
			errs[0] = m.login(ctx, fmt.Sprintf("user-%d", i*7%oldUsers))
		}
	})
	working.Go(func() {
		for key, line := range lines("late", newUsers) {
			if _, errs[1] = m.stored.Create(ctx, key, line); errs[1] != nil {
				return
			}
		}
	})
	return func() error {
		working.Wait()
		return errors.Join(errs...)
	}
}

// login is what the new program does: it reads whichever form is there.
func (m *migration) login(ctx context.Context, key string) error {
	_, err := m.users.Modify(ctx, key, func(user jskv.Entry[User], _ bool) (User, error) {
		user.Value.Logins++
		return user.Value, nil
	})
	return err
}

func (m *migration) report(ctx context.Context) error {
	old, err := m.old(ctx)
	if err != nil {
		return err
	}
	users, logins := 0, 0
	for user, err := range m.users.Entries(ctx) {
		if err != nil {
			return err
		}
		users++
		logins += user.Value.Logins
	}
	fmt.Printf("%d users, %d of them in the old form, %d logins\n", users, len(old), logins)
	first, err := m.stored.Get(ctx, "user-0")
	if err != nil {
		return err
	}
	fmt.Printf("user-0 is now %s\n", first)
	return nil
}
