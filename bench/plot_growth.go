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

// curves are drawn in this order, the library last, on top.
var curves = []struct {
	name string
	curve
}{
	{etcdName, newCurve(purple, draw.TriangleGlyph{})},
	{bare, newCurve(grey, draw.PlusGlyph{})},
	{stockKV, newCurve(orange, draw.SquareGlyph{})},
	{ours, newCurve(blue, draw.CircleGlyph{})},
}

func newCurve(c color.Color, shape draw.GlyphDrawer) curve {
	return curve{
		line:  draw.LineStyle{Color: c, Width: vg.Points(1.6)},
		point: draw.GlyphStyle{Color: c, Radius: vg.Points(3), Shape: shape},
	}
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
	columns := min(3, len(panels))
	tiles := draw.Tiles{Cols: columns, Rows: (len(panels) + columns - 1) / columns, PadX: 8 * vg.Millimeter, PadY: 8 * vg.Millimeter,
		PadTop: 4 * vg.Millimeter, PadBottom: 14 * vg.Millimeter, PadLeft: 4 * vg.Millimeter, PadRight: 6 * vg.Millimeter}
	return picture{
		name: "growth-" + fileName(axis), width: vg.Length(columns) * 12 * vg.Centimeter, height: vg.Length(tiles.Rows)*8.5*vg.Centimeter + 10*vg.Millimeter,
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
			legendRow(draw.Crop(c, 12*vg.Millimeter, 0, 4*vg.Millimeter, 0), grid[0][0].Legend.TextStyle, growthLegend(panels))
		},
	}
}

func (g growthPanel) plot(axis string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.Title.Padding = g.operation+", time "+perText(g.unit), 3*vg.Millimeter
	p.X.Label.Text = axis
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, decades{countText}
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decades{amountText}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = lightGrey, lightGrey
	p.Add(grid)
	for _, contender := range curves {
		if points := g.points(contender.name); len(points) > 0 {
			p.Add(&plotter.Line{XYs: points, LineStyle: contender.line}, &plotter.Scatter{XYs: points, GlyphStyle: contender.point})
		}
	}
	p.Y.Min, p.Y.Max = decadesAround(p.Y.Min, p.Y.Max)
	return p
}

// growthLegend names those that are in any panel.
func growthLegend(panels []growthPanel) []legendEntry {
	var entries []legendEntry
	for _, contender := range curves {
		if slices.ContainsFunc(panels, func(g growthPanel) bool { return len(g.points(contender.name)) > 0 }) {
			entries = append(entries, legendEntry{contender.name, contender.curve})
		}
	}
	return entries
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

// decadesAround are whole powers of ten, so that both ends have a label.
func decadesAround(low, high float64) (float64, float64) {
	low, high = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
	return low, high
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
