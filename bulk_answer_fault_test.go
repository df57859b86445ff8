package jskv_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// losing is a connection on which some of what the server sends is lost, as on the way between servers.
type losing struct {
	net.Conn
	from *bufio.Reader
	rest string
	lost func(message string) bool
}

// Dial makes the connection of a client.
func (c *losing) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &losing{Conn: conn, from: bufio.NewReader(conn), lost: c.lost}, err
}

func (c *losing) Read(p []byte) (int, error) {
	for c.rest == "" {
		message, err := c.message()
		if err != nil {
			return 0, err
		}
		if !c.lost(message) {
			c.rest = message
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// message reads one line of the protocol and what it announces.
func (c *losing) message() (string, error) {
	line, err := c.from.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HMSG ") && !strings.HasPrefix(line, "MSG ") {
		return line, err
	}
	fields := strings.Fields(line)
	size, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil {
		return "", err
	}
	body := make([]byte, size+len("\r\n"))
	_, err = io.ReadFull(c.from, body)
	return line + string(body), err
}

// What was lost at the beginning of an answer was taken for what is not there; in its midst it was an error.
func TestReadsAskAgainWhenAPartOfAnAnswerWasLost(t *testing.T) {
	t.Parallel()
	writer, server := newBucket(t, inMemory)
	keys := numbered(10)
	store(t, writer, keys)
	part := func(i int) func(string) bool {
		return func(message string) bool { return strings.Contains(message, "Nats-Subject: $KV.b."+keys[i]+"\r\n") }
	}
	for name, is := range map[string]func(string) bool{
		"the first":   part(0),
		"in between":  part(5),
		"the last":    part(9),
		"all but end": func(message string) bool { return strings.Contains(message, "Nats-Subject: $KV.b.n.") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var answers atomic.Int32 // of which a part is lost
			lost := func(message string) bool {
				if strings.Contains(message, "204 EOB") {
					answers.Add(-1)
				}
				return answers.Load() > 0 && is(message)
			}
			js, err := jetstream.New(server.Conn(nats.SetCustomDialer(&losing{lost: lost})))
			require.NoError(t, err)
			b := openBucket(t, js)
			onceInThree(t, int32(-1), func() int32 {
				answers.Store(2)
				requireValued(t, getMany(t, b, keys...), keys)
				return answers.Load()
			})
			onceInThree(t, int32(-1), func() int32 {
				answers.Store(2)
				require.Equal(t, keys, sorted(t, b.Keys(testContext(t))))
				return answers.Load()
			})
		})
	}
}

// So it is when a connection is cut: what comes over the next one is the rest of an answer.
func TestGetManyHasAllAlthoughItsConnectionIsCutInTheMidstOfAnAnswer(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	keys := numbered(1000)
	store(t, createBucket(t, server.JetStream(), inMemory), keys)
	proxy := jskvtest.NewProxy(t, server.URL())
	b := openBucket(t, proxy.JetStream(nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0)))
	for i := range 15 {
		cut := proxy.CutOn(jskvtest.ToClient, keys[i])
		requireValued(t, getMany(t, b, keys...), keys)
		<-cut
	}
}

// What a server cut off of its answer was then asked of another bucket: that it has not come as far was the error.
func TestGetManyReadsABucketThatIsMadeAgainMeanwhile(t *testing.T) {
	t.Parallel()
	writer, server := newBucket(t, inMemory)
	keys := names("big", 10)
	for _, key := range keys {
		mustPut(t, writer, key, strings.Repeat("x", 1_000_000))
	}
	b, acted := rivalBetween(t, server, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		js := server.JetStream()
		if err := jskv.DeleteBucket(ctx, js, "b"); err != nil {
			return err
		}
		return untilRemoved(ctx, func() error {
			again, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "b", Storage: jetstream.MemoryStorage}, jskv.String())
			if err == nil {
				_, err = again.Put(ctx, keys[9], "new")
			}
			return err
		})
	})
	got := getMany(t, b, keys...)
	require.True(t, acted())
	require.Len(t, got, 1)
	require.Equal(t, "new", got[keys[9]].Value)
}
