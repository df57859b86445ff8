//go:build !linux

package jskvtest

import (
	"fmt"
	"net"
)

// reservePort finds a free TCP port of 127.0.0.1. Other than on Linux it cannot be held while
// no server listens: somebody else may take it, and starting the server fails then.
func reservePort() (port int, release func(), err error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, nil, fmt.Errorf("reserve a port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, func() {}, nil
}
