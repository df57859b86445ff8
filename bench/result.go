package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
)

// Report is all that a run found out, as it is written to performance.json.
type Report struct {
	Command  string            `json:"command"`
	Machine  Machine           `json:"machine"`
	Versions map[string]string `json:"versions"` // by module
	Settings map[string]string `json:"settings"` // by name: what runs where, and when it reaches the disk
	Goals    []Outcome         `json:"goals"`
	Results  []Result          `json:"results"`
	Failures []string          `json:"failures,omitempty"`
}

// Machine says where the figures come from, without naming anything of its owner's.
type Machine struct {
	Cores int    `json:"cores"`
	CPU   string `json:"cpu"`
	OS    string `json:"os"`
	Arch  string `json:"arch"`
	Go    string `json:"go"`
}

// Result is one operation in one setting, done by several contenders in the same rounds.
type Result struct {
	Setting      string        `json:"setting"`
	Operation    string        `json:"operation"`
	Params       string        `json:"params"`
	Unit         string        `json:"unit"` // of the medians, as in ns/op
	Axis         string        `json:"axis,omitempty"`
	X            float64       `json:"x,omitempty"` // what grows along the axis
	Stock        string        `json:"stock,omitempty"`
	Floor        string        `json:"floor,omitempty"` // which contenders the ratios are to
	Measurements []Measurement `json:"measurements"`
}

// Measurement is what one contender needed. Low and high are quartiles over the rounds; the ratios
// are made round by round.
type Measurement struct {
	Contender string   `json:"contender"`
	Means     string   `json:"means,omitempty"` // how it does it, where it lacks the operation
	Rounds    int      `json:"rounds"`
	Value     Spread   `json:"value"`
	ToStock   *Spread  `json:"toStock,omitempty"`
	ToFloor   *Spread  `json:"toFloor,omitempty"`
	Allocs    *float64 `json:"allocs,omitempty"` // of the client, per unit; nil where a server shares its process
	Bytes     *float64 `json:"bytes,omitempty"`
}

// of returns the contender's part of a result, or nil.
func (r *Result) of(contender string) *Measurement {
	for i := range r.Measurements {
		if r.Measurements[i].Contender == contender {
			return &r.Measurements[i]
		}
	}
	return nil
}

func (r *Result) name() string {
	return strings.TrimSuffix(r.Setting+"/"+r.Operation+" "+r.Params, " ")
}

func thisMachine() Machine {
	return Machine{Cores: runtime.NumCPU(), CPU: cpuModel(), OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version()}
}

// cpuModel is what Linux calls it; other systems have no file to read.
func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, model, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "unknown"
}

// rivalModules are those whose versions matter to who compares figures.
var rivalModules = []string{"github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/client/v3"}

func versions() map[string]string {
	found := map[string]string{}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return found
	}
	for _, dep := range info.Deps {
		for _, module := range rivalModules {
			if dep.Path == module {
				found[module] = dep.Version
			}
		}
	}
	return found
}

func (r *Report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

func readReport(path string) (*Report, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no figures yet, a full run makes them: %w", err)
	}
	if err != nil {
		return nil, err
	}
	r := new(Report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}
