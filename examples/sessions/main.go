// Command sessions keeps who is logged in: values that expire unless they are prolonged, and a
// watcher that tells a session that ran out from one that was ended.
//
// It starts a server of its own inside the program. With NATS_URL set it uses that server (2.11 or
// later), and refuses to touch a bucket "sessions" that is there already.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/embedded"
)

const (
	bucket = "sessions"

	// lifetime is after how long without a click a session ends. A real one has half an hour;
	// this is for whoever waits for the program.
	lifetime = 3 * time.Second
)

// Session is what the bucket stores of one login. Its key is a random token, which the user's
// browser keeps.
type Session struct {
	User   string `json:"user"`
	Clicks int    `json:"clicks"`
}

// errLoggedOut is what a user gets whose session has expired or was ended.
var errLoggedOut = errors.New("please log in again")

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
	if _, err := jskv.OpenBucket(ctx, js, bucket, jskv.JSON[Session]()); err == nil {
		return fmt.Errorf("a bucket %q is already there; this program would write to it and remove it", bucket)
	} else if !errors.Is(err, jskv.ErrBucketNotFound) {
		return err
	}
	// LimitMarkerTTL allows values to have a TTL of their own, and says how long the markers stay
	// that the server leaves for expired ones: long enough for every watcher to have seen them.
	sessions, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{
		Bucket:         bucket,
		LimitMarkerTTL: time.Minute,
	}, jskv.JSON[Session]())
	if err != nil {
		return err
	}
	defer func() {
		// The program's context may be what ended it.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = errors.Join(err, jskv.DeleteBucket(ctx, js, bucket))
	}()
	return day(ctx, &site{sessions})
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
	dir, err := os.MkdirTemp("", "jskv-sessions-")
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

type site struct {
	sessions *jskv.Bucket[Session]
}

// login begins a session and returns its token. Create would tell of a token that is in use;
// with 130 random bits there is none.
func (s *site) login(ctx context.Context, user string) (token string, err error) {
	token = rand.Text()
	_, err = s.sessions.Create(ctx, token, Session{User: user}, jskv.TTL(lifetime))
	return token, err
}

// click counts and prolongs: every write of a value sets its TTL anew, and one without TTL would
// make the session last for ever. It is a Modify and not a Put, because a Put would bring a session
// back that expired, or was ended in another window, a moment ago.
func (s *site) click(ctx context.Context, token string) (Session, error) {
	entry, err := s.sessions.Modify(ctx, token, func(current jskv.Entry[Session], exists bool) (Session, error) {
		if !exists {
			return Session{}, errLoggedOut
		}
		current.Value.Clicks++
		return current.Value, nil
	}, jskv.TTL(lifetime))
	return entry.Value, err
}

// logout ends a session. A deleted key leaves a marker in the bucket for ever, and no token comes
// again: so this is a Purge, whose marker may have a TTL too.
func (s *site) logout(ctx context.Context, token string) error {
	_, err := s.sessions.Purge(ctx, token, jskv.TTL(time.Minute))
	return err
}

// porter prints who comes and goes. A marker has no value, so he remembers whose token it was.
type porter struct {
	watcher *jskv.Watcher[Session]
	users   map[string]string // by token
}

// next waits for somebody to come or go, prints it and tells who it was. Prolonged sessions are no
// news.
func (p *porter) next(ctx context.Context) (user string, err error) {
	for {
		entry, err := p.watcher.Next(ctx)
		if err != nil {
			return "", err
		}
		user, known := p.users[entry.Key]
		switch {
		case entry.Operation == jskv.OpPut && known:
			continue
		case entry.Operation == jskv.OpPut:
			user = entry.Value.User
			p.users[entry.Key] = user
			fmt.Println(user, "logged in")
		case entry.Expired():
			delete(p.users, entry.Key)
			fmt.Println(user, "was away for too long")
		default:
			delete(p.users, entry.Key)
			fmt.Println(user, "logged out")
		}
		return user, nil
	}
}

// day has three users log in. One logs out, one goes away, and one stays.
func day(ctx context.Context, s *site) error {
	watcher, err := s.sessions.Watch(ctx, jskv.AllKeys)
	if err != nil {
		return err
	}
	defer watcher.Stop()
	p := &porter{watcher: watcher, users: map[string]string{}}

	began := time.Now()
	tokens := map[string]string{}
	for _, user := range []string{"sue", "bob", "eve"} {
		if tokens[user], err = s.login(ctx, user); err != nil {
			return err
		}
		if _, err := p.next(ctx); err != nil {
			return err
		}
	}
	if err := s.logout(ctx, tokens["eve"]); err != nil {
		return err
	}
	if _, err := p.next(ctx); err != nil {
		return err
	}

	// Nobody hears of bob any more, until the server ends his session. Sue began before him.
	stop := clicking(ctx, s, tokens["sue"])
	gone, err := p.next(ctx)
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	if age := time.Since(began); gone != "bob" || age < lifetime {
		return fmt.Errorf("%s was gone after %v, and not bob after %v", gone, age, lifetime)
	}
	if _, err := s.click(ctx, tokens["bob"]); !errors.Is(err, errLoggedOut) {
		return fmt.Errorf("bob's session was over, and his click gave %v", err)
	}
	fmt.Println("bob clicks:", errLoggedOut)
	sue, err := s.click(ctx, tokens["sue"])
	if err != nil {
		return err
	}
	fmt.Println(sue.User, "clicks, and is still there")
	if err := s.logout(ctx, tokens["sue"]); err != nil {
		return err
	}
	_, err = p.next(ctx)
	return err
}

// clicking clicks until stop is called, which tells what went wrong.
func clicking(ctx context.Context, s *site, token string) (stop func() error) {
	var failed error
	var clicks sync.WaitGroup
	done := make(chan struct{})
	clicks.Go(func() {
		tick := time.NewTicker(lifetime / 10)
		defer tick.Stop()
		for failed == nil {
			select {
			case <-tick.C:
				_, failed = s.click(ctx, token)
			case <-done:
				return
			}
		}
	})
	return func() error {
		close(done)
		clicks.Wait()
		return failed
	}
}
