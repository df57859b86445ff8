package jskvtest

import (
	"fmt"
	"sync"
)

// failLog is a server's log that keeps nothing but the first fatal error: the server says
// nowhere else why it did not start. Safe for concurrent use.
type failLog struct {
	mu    sync.Mutex
	fatal string
}

// fatalError is the first fatal error so far, or "".
func (l *failLog) fatalError() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

func (l *failLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == "" {
		l.fatal = fmt.Sprintf(format, v...)
	}
}

func (l *failLog) Noticef(string, ...any) {}
func (l *failLog) Warnf(string, ...any)   {}
func (l *failLog) Errorf(string, ...any)  {}
func (l *failLog) Debugf(string, ...any)  {}
func (l *failLog) Tracef(string, ...any)  {}
