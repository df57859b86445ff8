package main

import (
	"fmt"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Curves of how cost grows, a panel for each operation. Both scales are logarithmic, so that a
// straight line upwards is a cost in proportion.

var contenderColors = []struct {
	name  string
	color color.Color
	glyph draw.GlyphDrawer
}{
	{ours, blue, draw.CircleGlyph{}},
	{stockKV, orange, draw.SquareGlyph{}},
	{bare, grey, draw.PlusGlyph{}},
	{etcdName, purple, draw.TriangleGlyph{}},
}

func (r *Report) growthPictures() []picture {
	var all []picture
	for _, axis := range []string{axisKeys, axisWatchers, axisGoroutines, axisBytes} {
		if panels := r.growthPanels(axis); len(panels) > 0 {
			all = append(all, growthPicture(axis, panels))
		}
	}
	return all
}

// growthPanel is the points of one operation along an axis.
type growthPanel struct {
	operation string
	unit      string
	results   []*Result
}

func (r *Report) growthPanels(axis string) []growthPanel {
	var panels []growthPanel
	for i := range r.Results {
		result := &r.Results[i]
		if result.Axis != axis {
			continue
		}
		at := slices.IndexFunc(panels, func(p growthPanel) bool { return p.operation == result.Operation })
		if at < 0 {
			at = len(panels)
			panels = append(panels, growthPanel{operation: result.Operation, unit: result.Unit})
		}
		panels[at].results = append(panels[at].results, result)
	}
	return slices.DeleteFunc(panels, func(p growthPanel) bool { return len(p.results) < 2 })
}

func growthPicture(axis string, panels []growthPanel) picture {
	columns := min(2, len(panels))
	tiles := draw.Tiles{Cols: columns, Rows: (len(panels) + columns - 1) / columns, PadX: 8 * vg.Millimeter, PadY: 8 * vg.Millimeter,
		PadTop: 4 * vg.Millimeter, PadBottom: 4 * vg.Millimeter, PadLeft: 4 * vg.Millimeter, PadRight: 6 * vg.Millimeter}
	return picture{
		name: "growth-" + fileName(axis), width: vg.Length(columns) * 13 * vg.Centimeter, height: vg.Length(tiles.Rows) * 9 * vg.Centimeter,
		draw: func(c draw.Canvas) {
			grid := make([][]*plot.Plot, tiles.Rows)
			for row := range grid {
				grid[row] = make([]*plot.Plot, tiles.Cols)
				for column := range grid[row] {
					if i := row*columns + column; i < len(panels) {
						grid[row][column] = panels[i].plot(axis)
					}
				}
			}
			for row, canvases := range plot.Align(grid, tiles, c) {
				for column, canvas := range canvases {
					if grid[row][column] != nil {
						grid[row][column].Draw(canvas)
					}
				}
			}
		},
	}
}

func (g growthPanel) plot(axis string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.Title.Padding = g.operation, 3*vg.Millimeter
	p.X.Label.Text, p.Y.Label.Text = axis, "time "+perText(g.unit)
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, decades{countText}
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decades{func(v float64) string { return amountText(v) }}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = lightGrey, lightGrey
	p.Add(grid)
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.Padding = vg.Points(2)
	p.Legend.XOffs = vg.Points(4)
	for _, contender := range contenderColors {
		points := g.points(contender.name)
		if len(points) == 0 {
			continue
		}
		line, marks := &plotter.Line{XYs: points, LineStyle: draw.LineStyle{Color: contender.color, Width: vg.Points(1.6)}}, &plotter.Scatter{
			XYs: points, GlyphStyle: draw.GlyphStyle{Color: contender.color, Radius: vg.Points(3), Shape: contender.glyph}}
		p.Add(line, marks)
		p.Legend.Add(contender.name, line, marks)
	}
	p.Y.Min, p.Y.Max = decadesAround(p.Y.Min, p.Y.Max)
	return p
}

func (g growthPanel) points(contender string) plotter.XYs {
	var points plotter.XYs
	for _, r := range g.results {
		if m := r.of(contender); m != nil && m.Value.Median > 0 {
			points = append(points, plotter.XY{X: r.X, Y: m.Value.Median})
		}
	}
	return points
}

// decadesAround leaves room for the legend above the curves.
func decadesAround(low, high float64) (float64, float64) {
	low, high = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
	return low, high * 3
}

func perText(unit string) string {
	switch unit {
	case nsPerKey:
		return "per key"
	case "ns/put":
		return "per put"
	case "ns/event":
		return "per event"
	}
	return "per operation"
}

// decades are ticks at powers of ten, with smaller ones between them.
type decades struct{ text func(float64) string }

func (d decades) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for decade := math.Pow(10, math.Floor(math.Log10(low))); decade <= high; decade *= 10 {
		for step := 1.0; step < 10; step++ {
			at := decade * step
			if at < low*0.999 || at > high*1.001 {
				continue
			}
			tick := plot.Tick{Value: at}
			if step == 1 {
				tick.Label = d.text(at)
			}
			ticks = append(ticks, tick)
		}
	}
	return ticks
}

func countText(v float64) string { return grouped(int(math.Round(v))) }

// amountText is a power of ten nanoseconds.
func amountText(ns float64) string {
	for _, unit := range []struct {
		name string
		size float64
	}{{"s", 1e9}, {"ms", 1e6}, {"µs", 1e3}} {
		if ns >= unit.size*0.999 {
			return fmt.Sprintf("%.0f %s", ns/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%.0f ns", ns)
}
