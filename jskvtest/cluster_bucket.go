package jskvtest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// streamName is the stream under a bucket.
func streamName(bucket string) string { return "KV_" + bucket }

// Leader returns the index of the server that leads the bucket, once there is exactly one. The
// test ends when there is none within 40 seconds, as when there is no such bucket.
//
// A new leader serves clients a moment after it has become the leader: see WaitCurrent.
func (c *Cluster) Leader(bucket string) int {
	c.tb.Helper()
	return c.waitOne("leader of bucket "+bucket, func(ns *server.Server) bool {
		return ns.JetStreamIsStreamLeader(c.account, streamName(bucket))
	})
}

// ConsumerLeader returns the index of the server that leads the bucket's consumer of that
// name (for a consumer with one replica: that hosts it), once there is exactly one. The test
// ends when there is none within 40 seconds, as when there is no such consumer.
func (c *Cluster) ConsumerLeader(bucket, consumer string) int {
	c.tb.Helper()
	return c.waitOne("leader of consumer "+consumer+" of bucket "+bucket, func(ns *server.Server) bool {
		return ns.JetStreamIsConsumerLeader(c.account, streamName(bucket), consumer)
	})
}

// waitOne waits until is holds for exactly one running server and returns its index.
func (c *Cluster) waitOne(what string, is func(*server.Server) bool) int {
	c.tb.Helper()
	found := -1
	if !poll(electTimeout, func() bool { found = c.only(is); return found >= 0 }) {
		c.tb.Fatalf("jskvtest: no %s within %v", what, electTimeout)
	}
	return found
}

// only returns the index of the only running server for which is holds, or -1.
func (c *Cluster) only(is func(*server.Server) bool) int {
	found := -1
	for i, s := range c.servers {
		ns := s.NATS()
		if ns == nil || !is(ns) {
			continue
		}
		if found >= 0 {
			return -1 // the old leader has not heard of the new one yet
		}
		found = i
	}
	return found
}

// Follower returns the index of a server that holds a replica of the bucket, is running and
// does not lead it. The test ends when there is none.
func (c *Cluster) Follower(bucket string) int {
	c.tb.Helper()
	leader := c.Leader(bucket)
	for i, s := range c.servers {
		ns := s.NATS()
		if i == leader || ns == nil {
			continue
		}
		if _, ok := c.replica(ns, streamName(bucket)); ok {
			return i
		}
	}
	c.tb.Fatalf("jskvtest: bucket %s has no follower", bucket)
	return -1
}

// StepDown makes the bucket's leader hand over to another replica and returns the new
// leader's index, once it leads. It is what STREAM.LEADER.STEPDOWN of the JetStream API does,
// but it needs no permission to call that. The test ends when the bucket has only one replica,
// and when no other one takes over within 40 seconds.
//
// As after every change of leaders, writes may fail for a moment: see WaitCurrent.
func (c *Cluster) StepDown(bucket string) int {
	c.tb.Helper()
	old := c.Leader(bucket)
	stream := streamName(bucket)
	if d, ok := c.replica(c.servers[old].NATS(), stream); ok && d.Config.Replicas < 2 {
		c.tb.Fatalf("jskvtest: bucket %s has one replica, which cannot step down", bucket)
	}
	leader := old
	changed := poll(electTimeout, func() bool {
		leader = c.leaderNow(stream)
		// The old leader may win the vote that it gave way to: then it is asked again.
		if ns := c.servers[old].NATS(); leader == old && ns != nil {
			_ = ns.JetStreamStepdownStream(c.account, stream)
		}
		return leader >= 0 && leader != old
	})
	if !changed {
		c.tb.Fatalf("jskvtest: no other server than %s leads bucket %s within %v", c.servers[old].name, bucket, electTimeout)
	}
	return leader
}

// leaderNow returns the index of the stream's leader, or -1 if there is not exactly one.
func (c *Cluster) leaderNow(stream string) int {
	return c.only(func(ns *server.Server) bool { return ns.JetStreamIsStreamLeader(c.account, stream) })
}

// WaitCurrent returns when the bucket is as good as it gets: it has a leader, to whom requests
// find their way from every running server, and all running servers with a replica have all
// that the leader has. Call it after creating a replicated bucket, whose first writes fail
// otherwise with "no response from stream", and after servers have come or gone.
//
// The test ends when it does not come to that within 40 seconds, as when the bucket is being
// written to without pause.
func (c *Cluster) WaitCurrent(bucket string) {
	c.tb.Helper()
	c.Leader(bucket) // a clearer message when there is no such bucket
	if !poll(electTimeout, func() bool { return c.current(bucket) }) {
		c.tb.Fatalf("jskvtest: the replicas of bucket %s are not current within %v", bucket, electTimeout)
	}
}

func (c *Cluster) current(bucket string) bool {
	leader := c.leaderNow(streamName(bucket))
	if leader < 0 {
		return false
	}
	// A server that has just been started does not know yet what it replicates: the leader does.
	want, ok := c.replica(c.servers[leader].NATS(), streamName(bucket))
	return ok && c.reachable(want.Config.Subjects) && c.readable(want.Config, leader) && c.caughtUp(want)
}

// caughtUp says whether all followers that are running have what the leader has.
func (c *Cluster) caughtUp(leader server.StreamDetail) bool {
	if leader.Cluster == nil {
		return true
	}
	for _, peer := range leader.Cluster.Replicas {
		i := slices.IndexFunc(c.servers, func(s *Server) bool { return s.name == peer.Name })
		if i < 0 {
			return false // the leader has not learnt the peer's name yet
		}
		ns := c.servers[i].NATS()
		if ns == nil {
			continue
		}
		got, ok := c.replica(ns, leader.Name)
		if !ok || got.State.LastSeq < leader.State.LastSeq || !ns.JetStreamIsStreamCurrent(c.account, leader.Name) {
			return false
		}
		// A purge that the follower has not heard of yet leaves its last sequence as it is.
		if got.State.LastSeq == leader.State.LastSeq && got.State.Msgs != leader.State.Msgs {
			return false
		}
	}
	return true
}

// reachable says whether all running servers know of a subscription to each of the subjects:
// subscriptions spread a moment after a leader has taken over.
func (c *Cluster) reachable(subjects []string) bool {
	wildcards := strings.NewReplacer("*", "x", ">", "x")
	for _, ns := range c.running() {
		acc, err := ns.LookupAccount(c.account)
		if err != nil {
			return false
		}
		for _, subject := range subjects {
			if !acc.SubscriptionInterest(wildcards.Replace(subject)) {
				return false
			}
		}
	}
	return true
}

// readable says whether all running servers but the leader know of another server's subscription to direct
// reads, which is made after those to the stream's subjects. Interest does not tell: every account has a
// subscription to the whole API.
func (c *Cluster) readable(cfg *server.StreamConfig, leader int) bool {
	if !cfg.AllowDirect {
		return true
	}
	direct := fmt.Sprintf(server.JSDirectGetLastBySubjectT, cfg.Name, ">")
	for i, s := range c.servers {
		ns := s.NATS()
		if i == leader || ns == nil {
			continue
		}
		routes, err := ns.Routez(&server.RoutezOptions{Subscriptions: true})
		if err != nil || !slices.ContainsFunc(routes.Routes, func(r *server.RouteInfo) bool { return slices.Contains(r.Subs, direct) }) {
			return false
		}
	}
	return true
}

// replica is the server's own view of its replica of the stream, if it has one.
func (c *Cluster) replica(ns *server.Server, stream string) (server.StreamDetail, bool) {
	if ns == nil {
		return server.StreamDetail{}, false
	}
	// The server asks nobody else for this: a client would be answered by the leader alone.
	acc, err := ns.JszAccount(&server.JSzOptions{Account: c.account, Streams: true, Config: true})
	if err != nil {
		return server.StreamDetail{}, false
	}
	i := slices.IndexFunc(acc.Streams, func(d server.StreamDetail) bool { return d.Name == stream })
	if i < 0 {
		return server.StreamDetail{}, false
	}
	return acc.Streams[i], true
}
