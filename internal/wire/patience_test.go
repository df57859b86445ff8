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
	surprises := make([]int, workers) // ended without a reason
	for i := range workers {
		group.Go(func() {
			for round := range rounds {
				ctx, cancel := context.WithCancel(context.Background())
				d := time.Hour
				switch round % 8 {
				case 0, 2:
					d = time.Duration(round) // ends about when it is released
				case 1, 3:
					go cancel() // likewise
				}
				p := withPatience(ctx, d)
				switch round % 8 {
				case 0, 1:
					<-p.Done() // certain: what has ended must not be used again
				case 2, 3:
				default:
					if p.Err() != nil || isOver(p) {
						surprises[i]++
					}
				}
				p.release()
				cancel()
			}
		})
	}
	group.Wait()
	require.Equal(t, make([]int, workers), surprises)
}

func isOver(p *patient) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}
