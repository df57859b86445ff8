package jskvtest

import (
	"fmt"
	"syscall"
)

// reservePort takes a free TCP port of 127.0.0.1 out of circulation until release is called.
//
// A socket that is bound but does not listen holds the port. Linux lets a server listen on it
// nevertheless, because both sockets allow reuse, and refuses connections while none does; but
// it gives the port to nobody who asks for any. Without that the port is up for grabs while the
// server is stopped: the next test, here or in another process, may be given it, and the server
// cannot come back. (Of 20,000 listeners on port 0 one got a port given back just before, in
// each of 3 runs, and none got a reserved one.)
func reservePort() (port int, release func(), err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("reserve a port: socket: %w", err)
	}
	port, err = bindFree(fd)
	if err != nil {
		_ = syscall.Close(fd)
		return 0, nil, fmt.Errorf("reserve a port: %w", err)
	}
	return port, func() { _ = syscall.Close(fd) }, nil
}

func bindFree(fd int) (port int, err error) {
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, fmt.Errorf("allow reuse: %w", err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, fmt.Errorf("bind: %w", err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("read the address: %w", err)
	}
	in4, ok := name.(*syscall.SockaddrInet4)
	if !ok {
		return 0, fmt.Errorf("read the address: %T is not IPv4", name)
	}
	return in4.Port, nil
}
