package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
)

// serverLog is the server's log: it forwards to a slog.Logger, and keeps the first fatal
// error, because the log is the only place where the server says why it could not start.
// Safe for concurrent use.
type serverLog struct {
	out *slog.Logger

	mu    sync.Mutex
	fatal string
}

func newServerLog(out *slog.Logger) *serverLog {
	if out == nil {
		out = slog.New(slog.DiscardHandler)
	}
	return &serverLog{out: out}
}

// debug says whether anyone would see debug lines, which are costly to make.
func (l *serverLog) debug() bool {
	return l.out.Enabled(context.Background(), slog.LevelDebug)
}

// fatalError is the first fatal error so far, or "".
func (l *serverLog) fatalError() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

func (l *serverLog) Noticef(format string, v ...any) { l.out.Info(fmt.Sprintf(format, v...)) }
func (l *serverLog) Warnf(format string, v ...any)   { l.out.Warn(fmt.Sprintf(format, v...)) }
func (l *serverLog) Errorf(format string, v ...any)  { l.out.Error(fmt.Sprintf(format, v...)) }
func (l *serverLog) Debugf(format string, v ...any)  { l.out.Debug(fmt.Sprintf(format, v...)) }
func (l *serverLog) Tracef(format string, v ...any)  { l.out.Debug(fmt.Sprintf(format, v...)) }

// Fatalf does not end the program, as the server's own logger would.
func (l *serverLog) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.mu.Lock()
	if l.fatal == "" {
		l.fatal = text
	}
	l.mu.Unlock()
	l.out.Error(text)
}
