package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const writtenByHand = `# Figures

Before.

<!-- bench:goals -->
old
<!-- bench:end -->

Between <!-- a comment -->.

<!-- bench:process -->
<!-- bench:end -->
After.
`

func TestOnlyWhatIsMarkedIsRewritten(t *testing.T) {
	blocks := map[string]string{"goals": "| $1 |\n", "process": "two\nlines\n"}
	once, err := rewrite(writtenByHand, blocks)
	require.NoError(t, err)
	require.Equal(t, `# Figures

Before.

<!-- bench:goals -->
| $1 |
<!-- bench:end -->

Between <!-- a comment -->.

<!-- bench:process -->
two
lines
<!-- bench:end -->
After.
`, once)
	twice, err := rewrite(once, blocks)
	require.NoError(t, err)
	require.Equal(t, once, twice)
}

func TestNoFigureIsLostInSilence(t *testing.T) {
	tests := []struct {
		why    string
		blocks map[string]string
		text   string
		want   string
	}{
		{"a block has no place", map[string]string{"goals": "", "process": "", "growth": ""}, writtenByHand, `these have no place: ["growth"]`},
		{"a place has no block", map[string]string{"goals": ""}, writtenByHand, `no block is called ["process"]`},
		{"a marker is never closed", map[string]string{"goals": ""}, "<!-- bench:goals -->\nold\n", "1 markers begin a block, and 0 end one"},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			_, err := rewrite(tt.text, tt.blocks)
			require.ErrorContains(t, err, tt.want)
		})
	}
}
