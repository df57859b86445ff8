package main

import (
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Bars that begin at 1, where the stock client is, and go left as far as the library is ahead.

// ratioRow is one bar.
type ratioRow struct {
	label string
	us    Spread
	etcd  *Spread
}

func (r *Report) ratioPictures() []picture {
	var all []picture
	for _, setting := range []string{inProcess, inSynced, inLoopback, inCluster} {
		if rows := r.ratioRows(setting); len(rows) > 0 {
			all = append(all, ratioPicture(setting, rows))
		}
	}
	return all
}

// ratioRows are those of times, the best first.
func (r *Report) ratioRows(setting string) []ratioRow {
	var rows []ratioRow
	for i := range r.Results {
		result := &r.Results[i]
		us, etcd := result.of(ours), result.of(etcdName)
		if result.Setting != setting || result.Axis != "" || !strings.HasPrefix(result.Unit, "ns") || us == nil || us.ToStock == nil || us.ToStock.Median <= 0 {
			continue
		}
		row := ratioRow{label: strings.TrimSuffix(result.Operation+" "+result.Params, " "), us: *us.ToStock}
		if etcd != nil {
			row.etcd = etcd.ToStock
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b ratioRow) int { return cmpFloat(a.us.Median, b.us.Median) })
	return rows
}

func cmpFloat(a, b float64) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

func ratioPicture(setting string, rows []ratioRow) picture {
	const margin, columns = 5 * vg.Millimeter, 30 * vg.Millimeter
	p := plot.New()
	p.Title.Text = "Setting “" + setting + "”: time divided by the stock client’s, left of 1 is faster (log scale)"
	p.Title.Padding = 8 * vg.Millimeter
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, ratioTicks{}
	bars := ratioBars(rows)
	p.X.Min, p.X.Max = bars.limits()
	p.Y.Min, p.Y.Max = -0.7, float64(len(rows))-0.3
	p.Y.Tick.Marker, p.Y.Tick.Length, p.Y.LineStyle.Width = bars, 0, 0
	p.Add(bars)
	legend := []legendEntry{{"jskv ahead of stock", swatch{blue}}, {"jskv behind", swatch{orange}}, {"quartiles", whisker{}}}
	if bars.haveEtcd() {
		legend = append(legend, legendEntry{etcdName, diamond{}})
	}
	return picture{
		name: "ratio-" + setting, width: 26 * vg.Centimeter, height: vg.Length(len(rows))*0.52*vg.Centimeter + 4.2*vg.Centimeter,
		draw: func(c draw.Canvas) {
			p.Draw(draw.Crop(c, margin, -columns, 12*vg.Millimeter, -margin))
			legendRow(draw.Crop(c, margin, -margin, margin, 0), p.Legend.TextStyle, legend)
		},
	}
}

type ratioBars []ratioRow

// limits leave room for the figures beside the bars.
func (b ratioBars) limits() (low, high float64) {
	low, high = 0.5, 2
	for _, row := range b {
		low, high = min(low, row.us.Low), max(high, row.us.High)
		if row.etcd != nil {
			low, high = min(low, row.etcd.Median), max(high, row.etcd.Median)
		}
	}
	return low / 1.3, high * 1.3
}

// Ticks makes the labels of the bars; the best is on top.
func (b ratioBars) Ticks(_, _ float64) []plot.Tick {
	ticks := make([]plot.Tick, len(b))
	for i, row := range b {
		ticks[i] = plot.Tick{Value: b.y(i), Label: row.label}
	}
	return ticks
}

func (b ratioBars) y(i int) float64 { return float64(len(b) - 1 - i) }

func (b ratioBars) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for _, tick := range (ratioTicks{}).Ticks(p.X.Min, p.X.Max) {
		if tick.Label != "" {
			c.StrokeLine2(draw.LineStyle{Color: lightGrey, Width: vg.Points(0.5)}, x(tick.Value), c.Min.Y, x(tick.Value), c.Max.Y)
		}
	}
	text := p.X.Tick.Label
	text.XAlign, text.YAlign = draw.XRight, draw.YCenter
	us, etcd := c.Max.X+14*vg.Millimeter, c.Max.X+26*vg.Millimeter
	top := c.Max.Y + 3*vg.Millimeter
	c.FillText(text, vg.Point{X: us, Y: top}, ours)
	if b.haveEtcd() {
		c.FillText(text, vg.Point{X: etcd, Y: top}, etcdName)
	}
	half := (y(1) - y(0)) * 0.33
	for i, row := range b {
		at := y(b.y(i))
		b.bar(c, row, x, at, half)
		at += vg.Points(1.5) // the centre of digits is above that of their font
		text.Color = row.color()
		c.FillText(text, vg.Point{X: us, Y: at}, ratio(&row.us))
		if row.etcd != nil {
			text.Color = purple
			c.FillText(text, vg.Point{X: etcd, Y: at}, ratio(row.etcd))
		}
	}
	c.StrokeLine2(draw.LineStyle{Color: color.Black, Width: vg.Points(1.2)}, x(1), c.Min.Y, x(1), c.Max.Y)
}

func (b ratioBars) haveEtcd() bool {
	return slices.ContainsFunc(b, func(row ratioRow) bool { return row.etcd != nil })
}

func (row ratioRow) color() color.Color {
	if row.us.Median >= 1.005 { // as it is written beside it
		return orange
	}
	return blue
}

func (b ratioBars) bar(c draw.Canvas, row ratioRow, x func(float64) vg.Length, y, half vg.Length) {
	from, to := x(1), x(row.us.Median)
	c.FillPolygon(row.color(), []vg.Point{{X: from, Y: y - half}, {X: to, Y: y - half}, {X: to, Y: y + half}, {X: from, Y: y + half}})
	c.StrokeLine2(whiskerStyle, x(row.us.Low), y, x(row.us.High), y)
	if row.etcd != nil && row.etcd.Median > 0 {
		diamond{}.at(&c, vg.Point{X: x(row.etcd.Median), Y: y})
	}
}

// ratioTicks are 1, 2 and 5 of each decade; the text is only at what is easily read.
type ratioTicks struct{}

func (ratioTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	wide := math.Log10(high/low) > 3
	for decade := math.Pow(10, math.Floor(math.Log10(low))); decade <= high; decade *= 10 {
		for _, step := range []float64{1, 2, 5} {
			at := decade * step
			if at < low || at > high {
				continue
			}
			label := fmt.Sprintf("%.4g", at)
			if wide && step != 1 {
				label = ""
			}
			ticks = append(ticks, plot.Tick{Value: at, Label: label})
		}
	}
	return ticks
}
