package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// What stands on the terminal.

// summary is a result in one line, for the progress.
func summary(r *Result) string {
	var parts []string
	for _, m := range r.Measurements {
		part := m.Contender + " " + amount(m.Value.Median, r.Unit)
		if m.ToStock != nil {
			part += fmt.Sprintf(" (%s)", ratio(m.ToStock))
		}
		parts = append(parts, part)
	}
	return fmt.Sprintf("%-52s %s", r.name(), strings.Join(parts, "  "))
}

// amount is a value with its unit, as people write it.
func amount(value float64, unit string) string {
	base, per, _ := strings.Cut(unit, "/")
	if per == "op" {
		per = ""
	}
	if per != "" {
		per = "/" + per
	}
	if base != "ns" {
		return digits(value) + " " + base + per
	}
	switch {
	case value < 1e3:
		return digits(value) + " ns" + per
	case value < 1e6:
		return digits(value/1e3) + " µs" + per
	case value < 1e9:
		return digits(value/1e6) + " ms" + per
	}
	return digits(value/1e9) + " s" + per
}

// digits are three that count.
func digits(value float64) string {
	switch {
	case value >= 100:
		return grouped(int(value + 0.5))
	case value >= 10:
		return fmt.Sprintf("%.1f", value)
	}
	return fmt.Sprintf("%.2f", value)
}

func ratio(s *Spread) string {
	if s == nil {
		return ""
	}
	switch {
	case s.Median < 0.1:
		return fmt.Sprintf("%.3f", s.Median)
	case s.Median >= 10:
		return fmt.Sprintf("%.1f", s.Median)
	}
	return fmt.Sprintf("%.2f", s.Median)
}

// columns of a table of results; the Markdown ones are the same.
var columns = []string{"operation", "jskv", "quartiles", "stock", "etcd", "floor", "jskv/stock", "etcd/stock", "jskv/floor", "allocs jskv", "stock", "floor", "bytes jskv", "stock"}

func cells(r *Result) []string {
	us, stock, etcd, floor := r.of(ours), r.of(r.Stock), r.of(etcdName), r.of(r.Floor)
	operation := strings.TrimSuffix(r.Operation+" "+r.Params, " ")
	return []string{
		operation, value(us, r), quartiles(us, r), value(stock, r), value(etcd, r), value(floor, r),
		stockRatio(us), stockRatio(etcd), floorRatio(us),
		number(us, allocsOf), number(stock, allocsOf), number(floor, allocsOf), number(us, bytesOf), number(stock, bytesOf),
	}
}

func value(m *Measurement, r *Result) string {
	if m == nil {
		return ""
	}
	return amount(m.Value.Median, r.Unit)
}

func quartiles(m *Measurement, r *Result) string {
	if m == nil || m.Value.Median == 0 {
		return ""
	}
	return fmt.Sprintf("%+.0f/%+.0f %%", 100*(m.Value.Low/m.Value.Median-1), 100*(m.Value.High/m.Value.Median-1))
}

func stockRatio(m *Measurement) string {
	if m == nil {
		return ""
	}
	return ratio(m.ToStock)
}

func floorRatio(m *Measurement) string {
	if m == nil {
		return ""
	}
	return ratio(m.ToFloor)
}

func allocsOf(m *Measurement) *float64 { return m.Allocs }
func bytesOf(m *Measurement) *float64  { return m.Bytes }

func number(m *Measurement, of func(*Measurement) *float64) string {
	if m == nil || of(m) == nil {
		return ""
	}
	if *of(m) >= 10 {
		return grouped(int(*of(m) + 0.5))
	}
	return fmt.Sprintf("%.1f", *of(m))
}

// print writes all tables.
func (r *Report) print(w io.Writer) error {
	_, _ = fmt.Fprintf(w, "\n%s, %d cores, %s/%s, %s\n", r.Machine.CPU, r.Machine.Cores, r.Machine.OS, r.Machine.Arch, r.Machine.Go)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	setting := ""
	for i := range r.Results {
		result := &r.Results[i]
		if result.Setting != setting {
			setting = result.Setting
			_, _ = fmt.Fprintf(table, "\nsetting %s\n%s\t\n", setting, strings.Join(columns, "\t"))
		}
		_, _ = fmt.Fprintf(table, "%s\t\n", strings.Join(cells(result), "\t"))
	}
	_, _ = fmt.Fprintf(table, "\ngoal\tmeasured\tlimit\treached\t\n")
	for _, o := range r.Goals {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t\n", o.Goal, o.figure(o.Measured), o.bound(), yes(o.Reached))
	}
	return table.Flush() // of all that failed before, too
}

func (o Outcome) figure(x float64) string {
	text := fmt.Sprintf("%.2f", x)
	if o.Limit >= 2 || o.Limit == 0 {
		text = grouped(int(x))
	}
	return strings.TrimSpace(text + " " + o.Unit)
}

func (o Outcome) bound() string {
	if o.AtLeast {
		return "≥ " + o.figure(o.Limit)
	}
	return "≤ " + o.figure(o.Limit)
}

func yes(reached bool) string {
	if reached {
		return "yes"
	}
	return "no"
}
