package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// The text around the tables is written by hand; the tables stand between markers:
//
//	<!-- bench:goals -->
//	...
//	<!-- bench:end -->

var marked = regexp.MustCompile(`(?s)<!-- bench:([a-z]+) -->\n(.*?)<!-- bench:end -->`)

// rewrite puts the blocks between their markers. Every block has to have a place and every place a
// block, or a figure would be missing or old without anybody seeing it.
func rewrite(text string, blocks map[string]string) (string, error) {
	if begins, ends := strings.Count(text, "<!-- bench:")-strings.Count(text, "<!-- bench:end -->"), strings.Count(text, "<!-- bench:end -->"); begins != ends {
		return "", fmt.Errorf("%d markers begin a block, and %d end one", begins, ends)
	}
	missing := maps.Clone(blocks)
	var unknown []string
	rewritten := marked.ReplaceAllStringFunc(text, func(old string) string {
		name := marked.FindStringSubmatch(old)[1]
		block, ok := blocks[name]
		if !ok {
			unknown = append(unknown, name)
		}
		delete(missing, name)
		return "<!-- bench:" + name + " -->\n" + block + "<!-- bench:end -->"
	})
	if len(unknown)+len(missing) > 0 {
		return "", fmt.Errorf("no block is called %q, and these have no place: %q", unknown, slices.Sorted(maps.Keys(missing)))
	}
	return rewritten, nil
}

// blocks are the tables, by the names of their markers.
func (r *Report) blocks() map[string]string {
	blocks := map[string]string{"machine": r.machineBlock(), "goals": r.goalsBlock(), "means": r.meansBlock(), "growth": r.growthBlock()}
	for setting := range settingTexts {
		blocks[setting] = r.resultsBlock(setting)
	}
	return blocks
}

func markdown(header []string, rows [][]string) string {
	var text strings.Builder
	line := func(cells []string) { fmt.Fprintf(&text, "| %s |\n", strings.Join(cells, " | ")) }
	line(header)
	line(slices.Concat([]string{"---"}, slices.Repeat([]string{"---:"}, len(header)-1)))
	for _, row := range rows {
		line(row)
	}
	return text.String()
}

func (r *Report) machineBlock() string {
	var text strings.Builder
	fmt.Fprintf(&text, "    %s\n\n", r.Command)
	fmt.Fprintf(&text, "- machine: %s, %d cores, %s/%s, %s\n", r.Machine.CPU, r.Machine.Cores, r.Machine.OS, r.Machine.Arch, r.Machine.Go)
	for _, module := range slices.Sorted(maps.Keys(r.Versions)) {
		fmt.Fprintf(&text, "- %s %s\n", module, r.Versions[module])
	}
	for _, setting := range []string{inProcess, inSynced, inLoopback, inCluster} {
		fmt.Fprintf(&text, "- setting **%s**: %s\n", setting, r.Settings[setting])
	}
	return text.String()
}

func (r *Report) goalsBlock() string {
	var rows [][]string
	for _, o := range r.Goals {
		rows = append(rows, []string{o.Goal, o.bound(), o.figure(o.Measured), yes(o.Reached)})
	}
	return markdown([]string{"goal", "wanted", "measured", "reached"}, rows)
}

// growthCells leave out what the picture does not need.
func (r *Report) growthBlock() string {
	var rows [][]string
	for i := range r.Results {
		if result := &r.Results[i]; result.Axis != "" {
			rows = append(rows, resultRow(result))
		}
	}
	return markdown(resultHeader, rows)
}

func (r *Report) resultsBlock(setting string) string {
	var rows [][]string
	for i := range r.Results {
		if result := &r.Results[i]; result.Axis == "" && result.Setting == setting {
			rows = append(rows, resultRow(result))
		}
	}
	return markdown(resultHeader, rows)
}

var resultHeader = []string{"operation", "jskv", "stock", "etcd", "floor", "jskv / stock", "etcd / stock", "jskv / floor", "allocations: jskv, stock, floor", "bytes: jskv, stock, floor"}

func resultRow(r *Result) []string {
	us, stock, etcd, floor := r.of(ours), r.of(r.Stock), r.of(etcdName), r.of(r.Floor)
	row := []string{
		strings.TrimSuffix(r.Operation+" "+r.Params, " "),
		value(us, r), value(stock, r), value(etcd, r), value(floor, r),
		stockRatio(us), stockRatio(etcd), floorRatio(us),
		numbers(allocsOf, us, stock, floor), numbers(bytesOf, us, stock, floor),
	}
	return row
}

func numbers(of func(*Measurement) *float64, measurements ...*Measurement) string {
	var all []string
	for _, m := range measurements {
		if text := number(m, of); text != "" {
			all = append(all, text)
		} else {
			all = append(all, "–")
		}
	}
	if text := strings.Join(all, ", "); text != "–, –, –" {
		return text
	}
	return ""
}

// meansBlock says how each does what it lacks, and gives the contenders that have no column.
func (r *Report) meansBlock() string {
	var rows [][]string
	seen := map[string]bool{}
	for _, result := range r.Results {
		for _, m := range result.Measurements {
			key := result.Operation + "\x00" + m.Contender
			if m.Means == "" || seen[key] {
				continue
			}
			seen[key] = true
			rows = append(rows, []string{result.Operation, m.Contender, m.Means})
		}
	}
	slices.SortStableFunc(rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	return strings.ReplaceAll(markdown([]string{"operation", "contender", "does it by"}, rows), "---:", "---")
}
