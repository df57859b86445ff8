package interop

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

func TestTheOtherClientsWatcherSeesAWholeTransactionInItsOrder(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		ctx := testContext(t)
		bucket := ours(t, b.js, jetstream.KeyValueConfig{History: 5}, jskv.WithTransactions())
		must := written(t)
		must(bucket.Put(ctx, "sue", "10"))
		must(bucket.Put(ctx, "tom", "0"))
		must(bucket.Put(ctx, "pending", "sue to tom"))
		w := b.client.watch("b")
		for range 3 {
			w.next()
		}

		last, err := bucket.Transact(ctx, func(tx *jskv.Tx[string]) error {
			if _, err := tx.GetMany("sue", "tom"); err != nil {
				return err
			}
			tx.Put("tom", "10")
			tx.Put("sue", "0")
			tx.Delete("pending")
			tx.Put("done", "sue to tom")
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, uint64(7), last)
		for _, want := range []revision{
			{"tom", "10", 4, jskv.OpPut}, {"sue", "0", 5, jskv.OpPut}, {"pending", "", 6, jskv.OpDelete}, {"done", "sue to tom", 7, jskv.OpPut},
		} {
			require.Equal(t, w.shown(want), w.next())
		}
		b.requireSame(bucket, "sue", "tom", "pending", "done")
	})
}

func TestTheOtherClientsWatcherSeesAWholeBatchInItsOrder(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		ctx := testContext(t)
		bucket := ours(t, b.js, jetstream.KeyValueConfig{History: 5}, jskv.WithTransactions())
		written(t)(bucket.Put(ctx, "c", "old"))
		w := b.client.watch("b")
		w.next()

		revisions, err := bucket.NewBatch().
			Put("b", "1").Create("a", "2").Update("c", "3", 1).Put("b", "4").Delete("a").Purge("d").
			Commit(ctx)
		require.NoError(t, err)
		want := []revision{
			{"b", "1", 2, jskv.OpPut}, {"a", "2", 3, jskv.OpPut}, {"c", "3", 4, jskv.OpPut},
			{"b", "4", 5, jskv.OpPut}, {"a", "", 6, jskv.OpDelete}, {"d", "", 7, jskv.OpPurge},
		}
		require.Len(t, revisions, len(want))
		for i, r := range want {
			require.Equal(t, r.Number, revisions[i])
			require.Equal(t, w.shown(r), w.next())
		}
		b.requireSame(bucket, "a", "b", "c", "d")
	})
}

// What the other client writes makes a transaction that has read it start over.
func TestATransactionDependsOnWhatTheOtherClientWrites(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		ctx := testContext(t)
		bucket := ours(t, b.js, jetstream.KeyValueConfig{}, jskv.WithTransactions())
		written(t)(bucket.Put(ctx, "read", "a"))
		runs := 0
		_, err := bucket.Transact(ctx, func(tx *jskv.Tx[string]) error {
			runs++
			value, err := tx.Get("read")
			if err != nil {
				return err
			}
			if runs == 1 {
				require.NoError(t, b.client.put("b", "read", "theirs"))
			}
			tx.Put("copy", value)
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 2, runs)
		copied, err := b.client.get("b", "copy")
		require.NoError(t, err)
		require.Equal(t, "theirs", copied.Value)

		_, err = bucket.NewBatch().Update("read", "ours", 1).Put("copy", "ours").Commit(ctx)
		require.ErrorIs(t, err, jskv.ErrRevisionMismatch)
		b.requireSame(bucket, "read", "copy")
	})
}
