package wire

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAPatientContextEndsWithTheCallersOrAfterAWhile(t *testing.T) {
	t.Parallel()
	type name struct{}
	deadline := time.Now().Add(time.Hour)
	ctx, cancel := context.WithDeadline(context.WithValue(context.Background(), name{}, "value"), deadline)
	p := withPatience(ctx, time.Hour)
	require.NoError(t, p.Err())
	require.Equal(t, "value", p.Value(name{}))
	until, _ := p.Deadline()
	require.Equal(t, deadline, until)
	cancel()
	<-p.Done()
	require.Equal(t, context.Canceled, p.Err())
	p.release()

	p = withPatience(context.Background(), time.Nanosecond)
	<-p.Done()
	require.Equal(t, context.DeadlineExceeded, p.Err())
	p.release()
}

// What ends one attempt late must not end the next one, which has the same pieces.
func TestAPatientContextThatIsUsedAgainEndsForReasonsOfItsOwn(t *testing.T) {
	t.Parallel()
	const workers, rounds = 8, 2000
	var group sync.WaitGroup
	ends := make([][2]int, workers)
	for i := range workers {
		group.Go(func() {
			for round := range rounds {
				ctx, cancel := context.WithCancel(context.Background())
				d := time.Hour
				switch round % 4 {
				case 0:
					d = time.Duration(round) // ends about when it is released
				case 1:
					go cancel() // likewise
				}
				p := withPatience(ctx, d)
				err := p.Err()
				select {
				case <-p.Done():
					err = p.Err()
					ends[i][0]++
				default:
				}
				if err != nil && round%4 > 1 {
					ends[i][1]++
				}
				p.release()
				cancel()
			}
		})
	}
	group.Wait()
	ended := 0
	for _, n := range ends {
		ended += n[0]
		require.Zero(t, n[1], "ended without a reason")
	}
	require.NotZero(t, ended)
}
