package jskv_test

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

func ExampleJSON() {
	ctx, js, stop := startServer()
	defer stop()

	type profile struct {
		Color string
		Age   int `json:",omitempty"`
	}
	profiles, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "profiles"}, jskv.JSON[profile]())
	check(err)
	_, err = profiles.Put(ctx, "sue", profile{Color: "blue", Age: 41})
	check(err)

	sue, err := profiles.Get(ctx, "sue")
	fmt.Println(sue.Color, sue.Age, err)
	// Output:
	// blue 41 <nil>
}

func ExampleString() {
	ctx, js, stop := startServer()
	defer stop()

	profiles, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "profiles"}, jskv.String())
	check(err)
	put(ctx, profiles, "sue.color", "blue")

	color, err := profiles.Get(ctx, "sue.color")
	fmt.Println(color, err)
	// Output:
	// blue <nil>
}

func ExampleBytes() {
	ctx, js, stop := startServer()
	defer stop()

	pictures, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "pictures"}, jskv.Bytes())
	check(err)
	_, err = pictures.Put(ctx, "sue.png", []byte{0x89, 'P', 'N', 'G'})
	check(err)

	data, err := pictures.Get(ctx, "sue.png")
	fmt.Printf("%q %v\n", data, err)
	// Output:
	// "\x89PNG" <nil>
}

// unixTime keeps a time as the eight bytes of its seconds.
type unixTime struct{}

func (unixTime) Encode(t time.Time) ([]byte, error) {
	return binary.BigEndian.AppendUint64(nil, uint64(t.Unix())), nil
}

func (unixTime) Decode(data []byte) (time.Time, error) {
	if len(data) != 8 {
		return time.Time{}, fmt.Errorf("%d bytes are no time", len(data))
	}
	return time.Unix(int64(binary.BigEndian.Uint64(data)), 0).UTC(), nil
}

// A codec of your own is a type with two methods, here
//
//	func (unixTime) Encode(t time.Time) ([]byte, error)
//	func (unixTime) Decode(data []byte) (time.Time, error)
func ExampleCodec() {
	ctx, js, stop := startServer()
	defer stop()

	var codec jskv.Codec[time.Time] = unixTime{}
	seen, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "seen"}, codec)
	check(err)
	_, err = seen.Put(ctx, "sue", time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC))
	check(err)

	at, err := seen.Get(ctx, "sue")
	fmt.Println(at, err)

	_, err = jskv.As(seen, jskv.String()).Put(ctx, "bob", "yesterday")
	check(err)
	_, err = seen.Get(ctx, "bob")
	fmt.Println(err)
	// Output:
	// 2026-07-01 12:00:00 +0000 UTC <nil>
	// jskv: decode seen/bob: revision 2: 9 bytes are no time
}
