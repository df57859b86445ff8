package jskv

import (
	"encoding/json"
)

// Codec turns values into bytes and back. Implementations are safe for concurrent use.
type Codec[T any] interface {
	// Encode returns the bytes to store. Nobody writes to them. When it fails, the write fails with
	// its error and stores nothing.
	Encode(value T) ([]byte, error)

	// Decode returns the value of stored bytes, which it may keep. The reader gets its error in a
	// *DecodeError.
	Decode(data []byte) (T, error)
}

// JSON is the codec of encoding/json: what `nats kv get` shows and other languages read as JSON. As
// in encoding/json, fields that T does not have are ignored, and a field that is missing keeps its
// zero value.
func JSON[T any]() Codec[T] { return jsonCodec[T]{} }

// String stores the bytes of the string as they are, as `nats kv put` writes them.
func String() Codec[string] { return stringCodec{} }

// Bytes stores bytes as they are. A value that was read belongs to the reader; one that is written
// must not be changed before the write returns. A Batch, a Tx and PutMany copy what they are given, so
// that a sequence may yield the same bytes again and again.
func Bytes() Codec[[]byte] { return bytesCodec{} }

type jsonCodec[T any] struct{}

func (jsonCodec[T]) Encode(value T) ([]byte, error) { return json.Marshal(value) }

func (jsonCodec[T]) Decode(data []byte) (value T, err error) {
	err = json.Unmarshal(data, &value)
	return value, err
}

type stringCodec struct{}

func (stringCodec) Encode(value string) ([]byte, error) { return []byte(value), nil }
func (stringCodec) Decode(data []byte) (string, error)  { return string(data), nil }

type bytesCodec struct{}

func (bytesCodec) Encode(value []byte) ([]byte, error) { return value, nil }
func (bytesCodec) Decode(data []byte) ([]byte, error)  { return data, nil }
