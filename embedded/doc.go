// Package embedded runs a NATS server with JetStream inside a program.
//
// It is for examples, for small programs that want a key-value bucket on disk without
// running a server beside them, and for tools that have to work offline. Start gives a
// server that nobody outside the program can reach, unless Listen says otherwise; the
// program talks to it through memory:
//
//	srv, err := embedded.Start(filepath.Join(home, ".myapp"))
//	if err != nil {
//		return err
//	}
//	defer srv.Shutdown()
//
//	js, err := srv.JetStream()
//
// Everything that works with js works the same with a server elsewhere: only the line that
// gets the connection changes.
//
// # Caveats
//
// A directory belongs to one server at a time: two that store in the same directory damage each
// other's data. Start refuses a directory that a server of this package has, in this program or in
// another, by a lock on the file jetstream.lock in it; but not on Windows, and not where the
// directory's other server is a nats-server of its own.
//
// A server that listens asks nobody for a password. Give Listen an address of the loopback
// interface, or keep the server inside the program.
//
// An acknowledged write is in the hands of the operating system, and on the disk at most two
// minutes later: it survives the end of the program, not always a loss of power. This is the
// default of every NATS server.
//
// The package imports nats-server, which is large: a program that only connects to servers
// should not import it. For tests there is package jskvtest.
package embedded
