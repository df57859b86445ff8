package main

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// legendEntry is a mark and what it stands for.
type legendEntry struct {
	name string
	mark plot.Thumbnailer
}

// legendRow draws a legend in one line at the bottom of c, where no data is.
func legendRow(c draw.Canvas, style text.Style, entries []legendEntry) {
	const markWidth, gap = 8 * vg.Millimeter, 2 * vg.Millimeter
	style.XAlign, style.YAlign = draw.XLeft, draw.YCenter
	x, y := c.Min.X, c.Min.Y+2*vg.Millimeter
	for _, e := range entries {
		mark := c
		mark.Rectangle = vg.Rectangle{Min: vg.Point{X: x, Y: y - 1.5*vg.Millimeter}, Max: vg.Point{X: x + markWidth, Y: y + 1.5*vg.Millimeter}}
		e.mark.Thumbnail(&mark)
		x += markWidth + gap
		c.FillText(style, vg.Point{X: x, Y: y}, e.name)
		x += style.Width(e.name) + 4*gap
	}
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

var whiskerStyle = draw.LineStyle{Color: grey, Width: vg.Points(1)}

// whisker is from the lower to the upper quartile.
type whisker struct{}

func (whisker) Thumbnail(c *draw.Canvas) {
	c.StrokeLine2(whiskerStyle, c.Min.X, c.Center().Y, c.Max.X, c.Center().Y)
}

// curve is a contender's line and point.
type curve struct {
	line  draw.LineStyle
	point draw.GlyphStyle
}

func (s curve) Thumbnail(c *draw.Canvas) {
	c.StrokeLine2(s.line, c.Min.X, c.Center().Y, c.Max.X, c.Center().Y)
	c.DrawGlyph(s.point, c.Center())
}
