// Package leak is for tests: it looks for goroutines that were left behind. goleak looks for half a second, in which
// what ends by itself may not have ended where the machine stands still. This looks for longer.
package leak

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

const patience = 20 * time.Second

// Find returns an error that names the goroutines that do not end, except those that are ignored.
func Find(ignored ...goleak.Option) (err error) {
	for end := time.Now().Add(patience); ; {
		if err = goleak.Find(ignored...); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// VerifyTestMain runs a package's tests and has them fail if they leave goroutines behind.
func VerifyTestMain(m *testing.M, ignored ...goleak.Option) {
	goleak.VerifyTestMain(patient{m, ignored}, ignored...)
}

type patient struct {
	m       *testing.M
	ignored []goleak.Option
}

func (p patient) Run() int {
	status := p.m.Run()
	if status == 0 {
		_ = Find(p.ignored...) // which goleak reports
	}
	return status
}
