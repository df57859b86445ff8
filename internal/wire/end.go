package wire

import "time"

// complete decides whether the snapshot has been received whole. It has when, at some moment
// after it was begun, the consumer's server had nothing more to deliver and had itself come to
// what the stream's leader had when it was begun: a key's newest revision of that moment was
// there already when the reader came by it.
//
// A pull that ends with "no messages" after it delivered some is such a moment, see certain. One that ends
// so without having delivered any is not: the server answers it from a count of pending messages, which
// an overwritten key leaves and re-enters at different times. Idle heartbeats are one when nothing comes
// before, between and after them. Of a single one nobody knows: whoever asks for the consumer's state, or the
// look of which certain tells, has the server send it between two messages (2.15.2).
func (r *Reader) complete(event pullEvent, position uint64) bool {
	c := r.consumer
	if event == pullIdle {
		// A consumer that skips along a list of newest revisions pauses where one of them is
		// gone, and may say so twice before it goes on. At the end of the stream it says the same
		// as often as one likes.
		if c.skipping && (position < c.skipTo || position == c.skipTo && c.beats < beatsAtEnd) {
			return false
		}
		return position >= r.target && c.received == 0 && c.beats > 1
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

// certain reports whether the server had nothing more to deliver at some moment, now that it has ended a pull
// with "no messages". Each time that a consumer might have been inactive for too long, first when it is that
// old, the server looks whether anybody pulls, and ends a pull so without looking at the stream (2.15.2). It
// does that once in that time at most: of two ends that came in less, one is true.
func (c *consumer) certain() bool {
	since := c.signed
	c.signed = c.pulled
	return c.arrived().Sub(since) < c.limits.InactiveThreshold
}

// took counts what is read of what the server sent, and notes when no more of it came than before: a reader
// may take long for what has come at once. The clock is not read for each message.
func (c *consumer) took() {
	c.read++
	switch came := c.read + len(c.delivery); {
	case came != c.came:
		c.came, c.cameAt = came, time.Time{}
	case c.cameAt.IsZero():
		c.cameAt = time.Now()
	}
}

// arrived is when what was read last had come, at the latest.
func (c *consumer) arrived() time.Time {
	if c.cameAt.IsZero() {
		return time.Now()
	}
	return c.cameAt
}
