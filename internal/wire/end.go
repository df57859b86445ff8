package wire

import "time"

// complete decides whether the snapshot has been received whole. It has when, at some moment after it was
// begun, the consumer's server had nothing more to deliver and had every message that the stream's leader had
// when the snapshot was begun.
//
// A pull that delivered messages and then ended with "no messages" shows such a moment, see certain. One that
// delivered none does not: the server answers it from a count of pending messages, in which a key that
// is just being overwritten may be missing. Two idle heartbeats in a pull that delivered nothing show one,
// and so do some at long intervals. A single heartbeat does not: the server also sends one between two
// messages when somebody asks for the consumer's state, or when it looks as certain tells (2.15.2).
func (r *Reader) complete(event pullEvent, position uint64) bool {
	c := r.consumer
	if event == pullIdle {
		// A consumer that skips along a list of newest revisions pauses where one of them is
		// gone, and may say so twice before it goes on. At the end of the stream it says the same
		// as often as one likes.
		if c.skipping && (position < c.skipTo || position == c.skipTo && c.same < beatsAtEnd) {
			return false
		}
		return position >= r.target && (c.received == 0 && c.beats > 1 || c.beat >= longestProbe && c.same >= beatsAtEnd)
	}
	if !c.drained || c.skipping && r.cursor <= c.skipTo {
		return false
	}
	if r.cursor < r.target && r.b.cautious() {
		c.probing = true // heartbeats tell how far the server has come
		return false
	}
	return c.certain()
}

// certain reports whether a pull that ended with "no messages" shows that there were none. From time to time the
// server looks whether anybody still pulls from the consumer, and then ends a pull without looking at the stream
// (2.15.2). The first look comes no earlier than InactiveThreshold after the consumer was made, and after a
// look that ended a pull the next comes no earlier than that again. So an end is true that came before the
// first look; and of two ends within that time, one is true.
func (c *consumer) certain() bool {
	since := c.signed
	c.signed = c.pulled
	return c.arrived().Sub(since) < c.limits.InactiveThreshold
}

// took counts what has been read and, with what waits in the channel, what has come. When that has not grown
// since the last read, everything had come by now, and the time is noted once. So a reader that takes long
// over what came at once knows that it came early, and the clock is not read for each message.
func (c *consumer) took() {
	c.read++
	switch came := c.read + len(c.delivery); {
	case came != c.came:
		c.came, c.cameAt = came, time.Time{}
	case c.cameAt.IsZero():
		c.cameAt = time.Now()
	}
}

// arrived is a time by which what was read last had come.
func (c *consumer) arrived() time.Time {
	if c.cameAt.IsZero() {
		return time.Now()
	}
	return c.cameAt
}
