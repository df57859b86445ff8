// Package jskv is a typed view of NATS JetStream key-value buckets. The buckets are those of every
// other NATS client, byte for byte: each reads what the other wrote.
//
// # Types
//
// A Bucket reads and writes keys; its Codec turns values into bytes. An Entry is one revision of
// one key. Revisions count the writes of a whole bucket: they are the sequence numbers of the
// stream under it, which RawStream shows as it is. A Watcher hands out what a bucket has, and then
// what changes. A Cache keeps a copy of it in the program, an Index finds the copy's entries by
// something else than their key. A Batch is several writes that happen all or not at all, a Tx the
// same with reads.
//
// # Order
//
// Watcher, RawMessages, History and Cache keep the order of revisions. A watcher hands out no
// revision twice, and leaves out none that the bucket still has when it comes by: in a bucket that
// keeps one revision of a key, a key written twice in a row may be seen once. Keys and Entries are
// in no order. A watcher's snapshot of up to 4096 entries (or 4 MB) is the bucket in the moment in
// which Watch returned; in a longer one, and in a listing, a key that is written meanwhile may come
// with its newer revision. A key that is alive all the time is never missing.
//
// # Freshness
//
// Reads by a handle have seen every write that was acknowledged to it, on replicas and through
// mirrors too. AtLeast asks for as much of somebody else's write, FromLeader for the newest that
// the servers can tell. Neither is linearizable: a leader that has been deposed and does not know
// it yet may still answer.
//
// # Back-pressure
//
// A Watcher asks the server for more when it is being read. One that is not read costs a bounded
// number of messages in memory, holds up nobody, and gets everything later that the bucket still
// has. A reader of Cache.Changes has the same freedom: what it has not taken is kept once a key.
//
// # Errors
//
// An error Is one of this package's, and the one of package jetstream that means the same, if
// there is one. Conflicts (ErrRevisionMismatch, ErrKeyExists) are told from accidents. A write
// whose answer did not come is ErrOutcomeUnknown, unless WithIdempotentWrites found out; after
// every other error of a write the bucket is as it was, which SafeToRetry puts into one question.
// A sequence that ends without an error was complete. A value that does not decode is a
// *DecodeError beside its entry, and ends nothing.
//
// # Contexts
//
// A call ends with its context. Where that has no deadline, the default timeout of the JetStream
// counts (5 s unless set): for each question that a call on keys puts to the server, and between
// two answers of a listing. Modify and Transact then try for as long as the server answers. A
// watcher or a cache lives as long as the context that it was made with, or until Stop
// or Close, which wait until nothing of it is left.
//
// # Caveats
//
// GetMany of more than 1024 keys, or of more than 8 MB, is not one moment of the bucket; what a Tx
// reads is, or the Tx starts over.
//
// A TTL is whole seconds, at least one, and needs a bucket with LimitMarkerTTL (server 2.11). In a
// bucket with history it drops the older revisions of its key.
//
// Atomic batches, and so transactions of several writes, need WithTransactions and server 2.12,
// and have at most 1000 writes unless the server allows more.
//
// A bucket that is deleted and made again has new revisions. Watchers end, with ErrBucketNotFound
// or ErrBucketReplaced; caches follow.
//
// An acknowledged write outlives the server's process. A power cut may take what was written in
// the last two minutes, unless the server's sync_interval is shorter or replicas on other machines
// have it.
package jskv
