//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// take makes the directory, and keeps other servers of this package out of it until release is
// called or the program ends, in whatever way. The file stays: removing it would let two in, the
// one that holds the old file and the one that makes a new one.
func take(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("JetStream's directory: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "jetstream.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("JetStream's directory: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close() // of a file that nothing was written to
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another server stores in %s", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return func() { _ = file.Close() }, nil // as above
}
