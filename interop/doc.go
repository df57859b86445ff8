// Package interop holds tests of jskv beside other people's clients on one server: the nats command
// line tool and nats.js. They read what jskv wrote, and jskv what they wrote. What was found to
// differ is in docs/interop.md.
//
// It is a module of its own because the tests need Node. From the root of the repository:
//
//	npm --prefix interop ci
//	go -C interop test ./...
package interop
