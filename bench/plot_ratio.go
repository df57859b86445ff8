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

// ratioRows are sorted, the best first.
func (r *Report) ratioRows(setting string) []ratioRow {
	var rows []ratioRow
	for i := range r.Results {
		result := &r.Results[i]
		us, etcd := result.of(ours), result.of(etcdName)
		if result.Setting != setting || result.Axis != "" || us == nil || us.ToStock == nil || us.ToStock.Median <= 0 {
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
	p := plot.New()
	p.Title.Text = "Time compared with the stock client, setting “" + setting + "”: left of 1 is faster"
	p.Title.Padding = 6 * vg.Millimeter
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, ratioTicks{}
	p.X.Label.Text = "time divided by the stock client's (log scale)"
	bars := ratioBars(rows)
	p.X.Min, p.X.Max = bars.limits()
	p.Y.Min, p.Y.Max = -0.7, float64(len(rows))-0.3
	p.Y.Tick.Marker, p.Y.Tick.Length, p.Y.LineStyle.Width = bars, 0, 0
	p.Add(bars)
	p.Legend.Top, p.Legend.Left = false, false
	p.Legend.Padding = vg.Points(2)
	p.Legend.Add("jskv ahead", swatch{blue})
	p.Legend.Add("jskv behind", swatch{orange})
	if slices.ContainsFunc(rows, func(row ratioRow) bool { return row.etcd != nil }) {
		p.Legend.Add("etcd", diamond{})
	}
	return withLegendBelow(picture{name: "ratio-" + setting, width: 24 * vg.Centimeter,
		height: vg.Length(len(rows))*0.52*vg.Centimeter + 4*vg.Centimeter}, p)
}

// withLegendBelow keeps the legend out of the data.
func withLegendBelow(pic picture, p *plot.Plot) picture {
	legend := p.Legend
	p.Legend = plot.NewLegend()
	pic.draw = func(c draw.Canvas) {
		p.Draw(draw.Crop(c, 0, -8*vg.Millimeter, 14*vg.Millimeter, -2*vg.Millimeter))
		drawLegendRow(draw.Crop(c, 6*vg.Millimeter, 0, 4*vg.Millimeter, 0), legend)
	}
	return pic
}

func drawLegendRow(c draw.Canvas, legend plot.Legend) {
	legend.Left, legend.Top = true, false
	legend.Draw(c)
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
	return low / 2, high * 2
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
	half := (y(1) - y(0)) * 0.33
	for i, row := range b {
		b.bar(c, p, row, x, y(b.y(i)), half)
	}
	c.StrokeLine2(draw.LineStyle{Color: color.Black, Width: vg.Points(1.2)}, x(1), c.Min.Y, x(1), c.Max.Y)
}

func (b ratioBars) bar(c draw.Canvas, p *plot.Plot, row ratioRow, x func(float64) vg.Length, y, half vg.Length) {
	fill, align, shift := blue, draw.XRight, -vg.Points(4)
	end := min(row.us.Low, 1)
	if row.us.Median > 1 {
		fill, align, shift = orange, draw.XLeft, vg.Points(4)
		end = max(row.us.High, 1)
	}
	from, to := x(1), x(row.us.Median)
	c.FillPolygon(fill, []vg.Point{{X: from, Y: y - half}, {X: to, Y: y - half}, {X: to, Y: y + half}, {X: from, Y: y + half}})
	c.StrokeLine2(draw.LineStyle{Color: grey, Width: vg.Points(1)}, x(row.us.Low), y, x(row.us.High), y)
	text := p.X.Tick.Label
	text.XAlign, text.YAlign = align, draw.YCenter
	c.FillText(text, vg.Point{X: x(end) + shift, Y: y}, ratio(&row.us))
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

// swatch is a colour in a legend.
type swatch struct{ fill color.Color }

func (s swatch) Thumbnail(c *draw.Canvas) {
	c.FillPolygon(s.fill, []vg.Point{c.Min, {X: c.Max.X, Y: c.Min.Y}, c.Max, {X: c.Min.X, Y: c.Max.Y}})
}

// diamond is where etcd is.
type diamond struct{}

func (d diamond) Thumbnail(c *draw.Canvas) { d.at(c, c.Center()) }

func (diamond) at(c *draw.Canvas, center vg.Point) {
	r := vg.Points(3.5)
	c.FillPolygon(purple, []vg.Point{{X: center.X - r, Y: center.Y}, {X: center.X, Y: center.Y - r}, {X: center.X + r, Y: center.Y}, {X: center.X, Y: center.Y + r}})
}
