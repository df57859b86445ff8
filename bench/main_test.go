package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestProfilesAreWrittenAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	f := flags{cpuProfile: filepath.Join(dir, "cpu"), memProfile: filepath.Join(dir, "mem")}
	end, err := f.startProfiles()
	require.NoError(t, err)
	require.NoError(t, end())
	for _, path := range []string{f.cpuProfile, f.memProfile} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.NotZero(t, info.Size())
	}
}

func TestPartOfTheFiguresNeverReplacesAllUnasked(t *testing.T) {
	docs, err := filepath.Abs("../docs")
	require.NoError(t, err)
	tests := []struct {
		why  string
		f    flags
		want string
	}{
		{"a full run writes to the repository", flags{}, docs},
		{"so does a new report", flags{report: true}, docs},
		{"a quick run writes nothing", flags{quick: true}, ""},
		{"some operations write nothing", flags{only: "Put"}, ""},
		{"unless they are told where to", flags{quick: true, only: "Put", out: "there"}, "there"},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			out, err := tt.f.folder()
			require.NoError(t, err)
			require.Equal(t, tt.want, out)
		})
	}
}
