package wire

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What leaves a doubt after each snapshot is read again ever more rarely; who waits needs it soon, but not
// so often that nothing else is done.
func TestWhoWaitsDoesNotWaitForWhatIsReadAgainRarely(t *testing.T) {
	const took = time.Minute
	f := &Follower{read: time.Now(), took: took}
	for range 10 {
		f.again = time.Time{}
		f.doubt()
	}
	require.Greater(t, f.again.Sub(f.read), 60*took, "rarely")
	require.True(t, f.sooner())
	require.Equal(t, 4*took, f.again.Sub(f.read))
	require.False(t, f.sooner(), "it is due already")

	f.again, f.doubts = time.Time{}, 0
	f.doubt()
	require.False(t, f.sooner(), "it is due before that")
	require.Less(t, f.again.Sub(f.read), 2*took)
	f.again = time.Time{}
	require.True(t, f.sooner(), "without a doubt")
}
