package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// measured is a report with each kind of figure in it.
func measured() *Report {
	us := Measurement{
		Contender: ours, Rounds: 3, Value: Spread{40_000, 39_000, 41_000},
		ToStock: &Spread{0.9, 0.8, 1.1}, ToFloor: &Spread{1.05, 1, 1.1}, Allocs: new(6.0), Bytes: new(416.0),
	}
	stock := Measurement{Contender: stockKV, Means: "as it is", Rounds: 3, Value: Spread{44_000, 43_000, 45_000}, Allocs: new(16.0)}
	etcd := Measurement{Contender: etcdName, Rounds: 3, Value: Spread{400_000, 1, 2}, ToStock: &Spread{9, 8, 10}}
	results := []Result{
		{Setting: inProcess, Operation: opPut, Params: "128 B, 1 goroutine", Unit: "ns/op", Stock: stockKV, Floor: bare, Measurements: []Measurement{us, stock, etcd}},
	}
	for _, x := range []float64{1, 64} {
		results = append(results, Result{Setting: inProcess, Operation: opPut, Unit: "ns/op", Axis: axisGoroutines, X: x, Stock: stockKV, Measurements: []Measurement{us, stock}})
	}
	return &Report{
		Command: "go -C bench run .", Machine: thisMachine(), Versions: map[string]string{"github.com/nats-io/nats.go": "v1"},
		Settings: settingTexts, Goals: outcomes(results), Results: results,
	}
}

func TestReportIsReadAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), figuresFile)
	wrote := measured()
	require.NoError(t, wrote.write(path))
	read, err := readReport(path)
	require.NoError(t, err)
	require.Equal(t, wrote, read)
}

func TestReportNamesNoMachine(t *testing.T) {
	path := filepath.Join(t.TempDir(), figuresFile)
	require.NoError(t, measured().write(path))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	host, err := os.Hostname()
	require.NoError(t, err)
	require.NotContains(t, string(text), host)
}

func TestGoalsAreReachedOrNot(t *testing.T) {
	byGoal := map[string]Outcome{}
	for _, o := range measured().Goals {
		byGoal[o.Goal] = o
	}
	require.Equal(t, map[string]Outcome{
		"Put, time to stock":            {Goal: "Put, time to stock", Limit: 1, Measured: 0.9, Reached: true},
		"Put, time to the bare request": {Goal: "Put, time to the bare request", Limit: 1.1, Measured: 1.05, Reached: true},
		"Put, client allocations":       {Goal: "Put, client allocations", Limit: 10, Measured: 6, Reached: true},
	}, byGoal, "those alone that were measured")

	slow := measured()
	slow.Results[0].Measurements[0].ToStock.Median = 1.006
	require.False(t, outcomes(slow.Results)[0].Reached)
	slow.Results[0].Measurements[0].ToStock.Median = 1.004
	require.True(t, outcomes(slow.Results)[0].Reached, "the goals have two decimals")
}

func TestThroughputIsTheInverseOfTime(t *testing.T) {
	r := measured().Results[0]
	r.Params = "128 B, 64 goroutines"
	require.Equal(t, []Outcome{{
		Goal: "Put, 64 goroutines, throughput to stock", Limit: 1.15, AtLeast: true, Measured: 1.11, Reached: false,
	}}, outcomes([]Result{r}))
}

func TestPublishedFilesAreThePicturesAndTheTables(t *testing.T) {
	dir := t.TempDir()
	text := ""
	for name := range measured().blocks() {
		text += "<!-- bench:" + name + " -->\n<!-- bench:end -->\n"
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, textFile), []byte(text), 0o644))
	var said bytes.Buffer
	require.NoError(t, measured().publish(&said, dir))

	for _, name := range []string{"ratio-process", "growth-goroutines"} {
		svg, err := os.ReadFile(filepath.Join(dir, pictures, name+".svg"))
		require.NoError(t, err)
		require.Contains(t, string(svg), "jskv")
		png, err := os.ReadFile(filepath.Join(dir, pictures, name+".png"))
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(png, []byte("\x89PNG")))
	}
	tables, err := os.ReadFile(filepath.Join(dir, textFile))
	require.NoError(t, err)
	require.Contains(t, string(tables), "| Put 128 B, 1 goroutine | 40.0 µs | 44.0 µs | 400 µs |  | 0.90 | 9.00 | 1.05 | 6.0, 16, – | 416, –, – |")
	require.Contains(t, string(tables), "| Put, time to stock | ≤ 1.00 | 0.90 | yes |")

	require.NoError(t, redraw(&said, dir), "the figures suffice to make it all again")
	again, err := os.ReadFile(filepath.Join(dir, textFile))
	require.NoError(t, err)
	require.Equal(t, string(tables), string(again))
}

func TestAmountsAreWrittenAsPeopleDo(t *testing.T) {
	tests := []struct {
		value float64
		unit  string
		want  string
	}{
		{81.24, "ns/op", "81.2 ns"},
		{4567, nsPerKey, "4.57 µs/key"},
		{19.9e9, "ns", "19.9 s"},
		{342.4, "B/key", "342 B/key"},
		{999_999_999, "ns/put", "1,000 ms/put"},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) { require.Equal(t, tt.want, amount(tt.value, tt.unit)) })
	}
}
