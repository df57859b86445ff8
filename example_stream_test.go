package jskv_test

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

// A bucket is a stream, and a key is a subject in it.
func ExampleRawStream() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	stream := profiles.Stream()
	fmt.Println(stream.Name())
	fmt.Println(stream.Subject("sue.color"))

	info, err := stream.Info(ctx)
	check(err)
	fmt.Println(info.State.Msgs, "message, the last is", info.State.LastSeq)
	// Output:
	// KV_profiles
	// $KV.profiles.sue.color
	// 1 message, the last is 1
}

func ExampleBucket_Stream() {
	_, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	fmt.Println(profiles.Stream().Name())
	// Output:
	// KV_profiles
}

func ExampleRawStream_Name() {
	_, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	fmt.Println(profiles.Stream().Name())
	// Output:
	// KV_profiles
}

func ExampleRawStream_Subject() {
	_, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	fmt.Println(profiles.Stream().Subject("sue.color"))
	// Output:
	// $KV.profiles.sue.color
}

func ExampleRawStream_Info() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{History: 5})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "sue.color", "green")
	info, err := profiles.Stream().Info(ctx)
	check(err)
	fmt.Println(info.State.Msgs, "messages under", info.State.NumSubjects, "subject")
	// Output:
	// 2 messages under 1 subject
}

// For what the library does not offer there is package jetstream.
func ExampleRawStream_JetStream() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	stream := profiles.Stream()
	msg, err := stream.JetStream().GetLastMsgForSubject(ctx, stream.Subject("sue.color"))
	check(err)
	fmt.Printf("%s\n", msg.Data)
	// Output:
	// blue
}

// The raw messages show what a delete is: an empty message with a header.
func ExampleRawStream_Messages() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{History: 5})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	_, err := profiles.Delete(ctx, "sue.color")
	check(err)

	messages, err := profiles.Stream().Messages(ctx)
	check(err)
	defer messages.Stop()
	for msg, err := range messages.All() {
		check(err)
		fmt.Printf("%s @ %d -> %q %v\n", msg.Subject, msg.Sequence, msg.Data, msg.Header)
		if msg.Pending == 0 {
			break // without it the loop waits for what comes
		}
	}
	// Output:
	// $KV.profiles.sue.color @ 1 -> "blue" map[]
	// $KV.profiles.sue.color @ 2 -> "" map[KV-Operation:[DEL]]
}

func ExampleRawMessage() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	messages, err := profiles.Stream().Messages(ctx)
	check(err)
	defer messages.Stop()
	_, err = profiles.Purge(ctx, "sue.color")
	check(err)

	msg, err := messages.Next(ctx)
	check(err)
	fmt.Println(msg.Key, msg.Sequence, msg.Operation)
	fmt.Println(msg.Header.Get("KV-Operation"), msg.Header.Get(jetstream.MsgRollup))
	// Output:
	// sue.color 1 Purge
	// PURGE sub
}

func ExampleRawMessages_All() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "sue.food", "pizza")
	messages, err := profiles.Stream().Messages(ctx)
	check(err)
	for msg, err := range messages.All() {
		check(err)
		fmt.Println(msg.Sequence, msg.Key)
		if msg.Pending == 0 {
			messages.Stop() // ends the loop
		}
	}
	// Output:
	// 1 sue.color
	// 2 sue.food
}

func ExampleRawMessages_Next() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	messages, err := profiles.Stream().Messages(ctx)
	check(err)
	defer messages.Stop()
	put(ctx, profiles, "sue.color", "blue")

	msg, err := messages.Next(ctx)
	fmt.Printf("%d %s %v\n", msg.Sequence, msg.Data, err)
	// Output:
	// 1 blue <nil>
}

func ExampleRawMessages_Stop() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	messages, err := profiles.Stream().Messages(ctx)
	check(err)
	messages.Stop()

	_, err = messages.Next(ctx)
	fmt.Println(errors.Is(err, jskv.ErrWatcherStopped))
	// Output:
	// true
}

func ExampleRawFilter() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	for _, key := range []string{"sue.color", "bob.color", "sue.food"} {
		put(ctx, profiles, key, "?")
	}
	messages, err := profiles.Stream().Messages(ctx, jskv.RawFilter("*.food", "bob.>"))
	check(err)
	defer messages.Stop()

	for range 2 {
		msg, err := messages.Next(ctx)
		check(err)
		fmt.Println(msg.Sequence, msg.Key)
	}
	// Output:
	// 2 bob.color
	// 3 sue.food
}

func ExampleRawFrom() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	for _, key := range []string{"sue.color", "bob.color", "sue.food"} {
		put(ctx, profiles, key, "?")
	}
	messages, err := profiles.Stream().Messages(ctx, jskv.RawFrom(3))
	check(err)
	defer messages.Stop()

	msg, err := messages.Next(ctx)
	fmt.Println(msg.Sequence, msg.Key, err)
	// Output:
	// 3 sue.food <nil>
}

// The server tells the size of what it does not send.
func ExampleRawHeadersOnly() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	messages, err := profiles.Stream().Messages(ctx, jskv.RawHeadersOnly())
	check(err)
	defer messages.Stop()

	msg, err := messages.Next(ctx)
	check(err)
	fmt.Println(len(msg.Data), "bytes of", msg.Header.Get("Nats-Msg-Size"))
	// Output:
	// 0 bytes of 4
}
