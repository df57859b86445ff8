// Package jskv is a typed view of NATS JetStream key-value buckets. The buckets are those of every
// other NATS client: each reads what the other wrote.
//
// # Types
//
// A Bucket reads and writes keys; its Codec turns values into bytes. An Entry is one revision of
// one key. Revisions count the writes of a whole bucket: they are the sequence numbers of the
// stream under it, which RawStream shows as it is. A Watcher delivers what a bucket has, and then
// what changes. A Cache keeps a copy of it in the program; an Index finds the copy's entries by
// something other than their key. A Batch is several writes that happen all or not at all; a Tx is
// the same with reads.
//
// # Order
//
// Watcher, RawMessages, History and Cache keep the order of revisions. A watcher delivers no
// revision twice, and leaves out none that the bucket still has when the watcher gets to it: where
// the bucket keeps one revision of a key, and a key is written twice in a row, the watcher may see
// only the second. Keys and Entries come in no particular order.
//
// A watcher's snapshot of up to 4096 entries (or 4 MB) is the bucket at the moment in which Watch
// returned. In a longer one, and in a listing, a key that is written meanwhile may come with its
// newer revision. A key that is alive all the time is never missing.
//
// # Freshness
//
// A read through a Bucket has seen every write that this handle was acknowledged for, or another
// that As made of it; on replicas and through mirrors too. AtLeast asks for an answer that has seen
// a given revision, such as one that another process wrote. FromLeader asks for the newest that the
// servers can tell. Neither is linearizable: a leader that has been deposed and does not know it
// yet may still answer.
//
// # Back-pressure
//
// A Watcher asks the server for more only while it is being read. One that is not read holds a
// bounded number of messages in memory and holds up nobody; when it is read again it gets
// everything that the bucket still has. A reader of Cache.Changes has the same freedom: of each key
// that it has not taken, only the newest state is kept.
//
// # Errors
//
// An error Is one of this package's, and also the one of package jetstream that means the same, if
// there is one. A conflict (ErrRevisionMismatch, ErrKeyExists) is never confused with a failure. A
// write whose answer did not come is ErrOutcomeUnknown, unless WithIdempotentWrites found out what
// became of it. After every other error of a write nothing was stored; SafeToRetry is that question
// as a function.
//
// A sequence that ends without an error was complete. A value that does not decode is a
// *DecodeError beside its entry, and ends nothing.
//
// # Contexts
//
// A call ends when its context does. Where the context has no deadline, the default timeout of the
// JetStream counts (5 s unless set otherwise): for each request of a call on keys, and for the time
// between two answers of a listing. Modify and Transact then try for as long as the server answers.
// A watcher or a cache lives as long as the context that it was made with, or until Stop or Close,
// which wait until nothing of it is left.
//
// # Connections
//
// While a connection is lost, calls wait for its return as long as their contexts allow; watchers
// and caches go on by themselves when it is back. A connection that is being drained goes on serving
// what is about one key, and batches. Everything that takes several messages (listings, GetMany,
// PutMany, transactions that read, watchers, caches) ends with nats.ErrConnectionDraining, because the
// client gives up its subscriptions first.
//
// # Caveats
//
// GetMany of more than 1024 keys, or of more than 8 MB, is not one moment of the bucket. What a Tx
// reads is one moment, or the Tx starts over.
//
// A TTL is whole seconds, at least one, and needs a bucket with LimitMarkerTTL (server 2.11 or
// later). In a bucket with history it drops the older revisions of its key.
//
// Atomic batches, and so transactions of several writes, need WithTransactions and server 2.12 or
// later, and have at most 1000 writes unless the server allows more. WithFastIngest needs server
// 2.14 or later.
//
// A bucket that is deleted and created again has new revisions. Watchers end, with
// ErrBucketNotFound or ErrBucketReplaced; caches follow.
//
// An acknowledged write outlives the server's process. A power cut may take what was written in the
// last two minutes, unless the server's sync_interval is shorter or replicas on other machines have
// it.
package jskv
