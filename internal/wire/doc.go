// Package wire is the untyped core of jskv: bytes, subjects, headers and revisions.
//
// It knows how a key-value bucket lies in a JetStream stream (ADR-8) and speaks to the
// server for the typed package above it. There is one place here for each thing: names and
// filters (names.go), server answers turned into errors (errors.go), requests (conn.go),
// stream configurations (config.go), writes (publish.go), reads of single keys (get.go),
// messages turned into revisions (message.go) and reading a stream in order (reader.go).
package wire
