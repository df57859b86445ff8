package wire

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// patient is the context of one attempt: the caller's, but ended after a while. It does what
// context.WithTimeout does with 2 allocations instead of 5, which were a quarter of all that a read
// made: it is used again, unless it has ended an attempt. Give it back with release.
type patient struct {
	context.Context // the caller's
	over            chan struct{}
	ended           atomic.Bool // over is closed
	end             func()
	timer           *time.Timer // calls end
	leave           func() bool // keeps the caller's context from calling end
}

var patients sync.Pool

// withPatience returns ctx ended after d.
func withPatience(ctx context.Context, d time.Duration) *patient {
	p, ok := patients.Get().(*patient)
	if ok {
		p.Context = ctx
		p.timer.Reset(d)
	} else {
		p = &patient{Context: ctx, over: make(chan struct{})}
		p.end = func() {
			if p.ended.CompareAndSwap(false, true) {
				close(p.over)
			}
		}
		p.timer = time.AfterFunc(d, p.end)
	}
	p.leave = context.AfterFunc(ctx, p.end)
	return p
}

// release is called once, when nobody uses p any more.
func (p *patient) release() {
	// Only what was stopped before it began cannot end somebody else's attempt.
	if timer, caller := p.timer.Stop(), p.leave(); timer && caller {
		p.Context, p.leave = nil, nil
		patients.Put(p)
	}
}

func (p *patient) Done() <-chan struct{} { return p.over }

func (p *patient) Err() error {
	if err := p.Context.Err(); err != nil || !p.ended.Load() {
		return err
	}
	return context.DeadlineExceeded
}

var timers sync.Pool

// startTimer returns a timer that was used before, if there is one. Give it back with stopTimer.
func startTimer(d time.Duration) *time.Timer {
	timer, ok := timers.Get().(*time.Timer)
	if !ok {
		return time.NewTimer(d)
	}
	timer.Reset(d)
	return timer
}

func stopTimer(timer *time.Timer) {
	timer.Stop() // nothing comes from it any more
	timers.Put(timer)
}
