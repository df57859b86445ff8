package wire

import "slices"

// compact drops from what has been received of a snapshot what was replaced while it was, and the
// markers that are not wanted once they have replaced what they mark.
func (r *Reader) compact() {
	newest := make(map[string]uint64, len(r.queue))
	for i := range r.queue {
		newest[r.queue[i].Key] = r.queue[i].Sequence
	}
	if len(newest) == len(r.queue) && !r.cfg.SkipMarkers {
		return
	}
	r.queue = slices.DeleteFunc(r.queue, func(m Message) bool {
		return newest[m.Key] != m.Sequence || r.cfg.SkipMarkers && m.Deleted()
	})
}

// pop takes the oldest message that is to be handed out, with Unique the first of its key.
func (r *Reader) pop() (Message, bool) {
	if r.hold {
		if r.snapshot && r.cursor < r.target && r.failed == nil {
			return Message{}, false
		}
		r.let()
	}
	for {
		m, ok := r.oldest()
		if !ok || !r.cfg.Unique || r.unique.first(m.Key, r.held || m.Sequence > r.target, r.expected) {
			return m, ok
		}
	}
}

// oldest takes the oldest message received. Within the snapshot the last one is held back until
// it is known whether another follows: whoever gets it may then ask Synced.
func (r *Reader) oldest() (Message, bool) {
	waiting := len(r.queue) - r.head
	if waiting == 0 || waiting == 1 && r.snapshot && r.failed == nil {
		return Message{}, false
	}
	m := r.queue[r.head]
	r.queue[r.head] = Message{}
	r.head++
	if r.head == len(r.queue) {
		r.queue, r.head = r.queue[:0], 0
		if cap(r.queue) > liveBatch {
			r.queue = nil
		}
	}
	r.settle()
	return m, true
}

// let hands over what was held back: of each key the newest.
func (r *Reader) let() {
	r.hold, r.held = false, true
	r.queue = append([]Message(nil), r.queue[r.head:]...)
	r.head = 0
	r.compact()
}

// slot makes room for a message at the end of the queue.
func (r *Reader) slot() *Message {
	if r.head > 0 && len(r.queue) == cap(r.queue) {
		// Within the snapshot the queue is never empty, see pop.
		n := copy(r.queue, r.queue[r.head:])
		clear(r.queue[n:])
		r.queue, r.head = r.queue[:n], 0
	}
	r.queue = append(r.queue, Message{})
	return &r.queue[len(r.queue)-1]
}

// uniqueKeys finds keys that come again. That needs a second revision, written after the reading
// began; up to the first of those a list of the keys is enough, which costs a tenth of a set.
type uniqueKeys struct {
	list []string
	set  map[string]struct{}
}

func (u *uniqueKeys) first(key string, late bool, expected int) bool {
	if u.set == nil {
		if !late {
			if u.list == nil {
				const most = 1 << 20 // the count is the server's
				u.list = make([]string, 0, min(expected, most))
			}
			u.list = append(u.list, key)
			return true
		}
		u.set = make(map[string]struct{}, len(u.list)+1)
		for _, key := range u.list {
			u.set[key] = struct{}{}
		}
		u.list = nil
	}
	_, again := u.set[key]
	u.set[key] = struct{}{}
	return !again
}
