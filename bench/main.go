// Command bench measures package jskv beside the stock key-value client of NATS, beside etcd and
// beside the bare requests that none of them can do without, all in one run. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"
)

// longest bounds a run, so that one that hangs ends.
const longest = time.Hour

type flags struct {
	quick, report          bool
	only                   string
	out                    string
	cpuProfile, memProfile string
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == serveCommand {
		exit(serve(os.Args[2:]))
	}
	var f flags
	flag.BoolVar(&f.quick, "quick", false, "fewer and shorter rounds, growth to smaller sizes: under two minutes")
	flag.StringVar(&f.only, "only", "", "measure only operations whose `setting/Operation` matches the regular expression")
	flag.StringVar(&f.out, "out", "", "write performance.json and the pictures to this `folder` (default: the repository's docs, and nothing with -quick or -only)")
	flag.BoolVar(&f.report, "report", false, "measure nothing: make the pictures and tables again from performance.json")
	flag.StringVar(&f.cpuProfile, "cpuprofile", "", "write a CPU profile of the client to this `file`")
	flag.StringVar(&f.memProfile, "memprofile", "", "write a profile of all the client's allocations to this `file`")
	flag.Parse()
	exit(f.run(os.Stdout))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (f flags) run(w io.Writer) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	out, err := f.folder()
	if err != nil {
		return err
	}
	if f.report {
		return redraw(w, out)
	}
	only, err := regexp.Compile(f.only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	r, err := f.measure(w, only)
	if err != nil {
		return err
	}
	if err := r.print(w); err != nil {
		return err
	}
	if out != "" {
		err = r.publish(w, out)
	}
	if len(r.Failures) > 0 {
		err = errors.Join(err, fmt.Errorf("%s:\n%s", count(len(r.Failures), "failure"), strings.Join(r.Failures, "\n")))
	}
	return err
}

// folder is where the output goes; part of the figures never replaces all of them unasked.
func (f flags) folder() (string, error) {
	if f.out != "" || (!f.report && (f.quick || f.only != "")) {
		return f.out, nil
	}
	return docsFolder()
}

// command is what makes the same figures again.
func (f flags) command() string {
	command := "go -C bench run ."
	if f.quick {
		command += " -quick"
	}
	if f.only != "" {
		command += fmt.Sprintf(" -only %q", f.only)
	}
	return command
}

func (f flags) measure(w io.Writer, only *regexp.Regexp) (r *Report, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second one ends the program at once
	dir, err := os.MkdirTemp("", "jskv-bench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	endProfiles, err := f.startProfiles()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, endProfiles()) }()

	b := &bench{ctx: ctx, scale: full, only: only, progress: w, dir: dir, began: time.Now()}
	if f.quick {
		b.scale = quick
	}
	b.suite()
	if ctx.Err() != nil {
		b.fail("run", context.Cause(ctx))
	}
	b.say("%s mode, %s", b.scale.name, count(len(b.results), "result"))
	return &Report{
		Command: f.command(), Machine: thisMachine(), Versions: versions(), Settings: settingTexts,
		Goals: outcomes(b.results), Results: b.results, Failures: b.failures,
	}, nil
}

// startProfiles starts the profiles that were asked for and returns what writes them.
func (f flags) startProfiles() (end func() error, err error) {
	if f.cpuProfile == "" {
		return f.writeMemProfile, nil
	}
	file, err := os.Create(f.cpuProfile)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return errors.Join(file.Close(), f.writeMemProfile())
	}, nil
}

func (f flags) writeMemProfile() error {
	if f.memProfile == "" {
		return nil
	}
	file, err := os.Create(f.memProfile)
	if err != nil {
		return err
	}
	runtime.GC() // it brings the profile up to date
	return errors.Join(pprof.Lookup("allocs").WriteTo(file, 0), file.Close())
}
