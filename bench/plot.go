package main

import (
	"errors"
	"image/color"
	"io"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// What all pictures share.

var (
	blue      = color.NRGBA{R: 0x1f, G: 0x6f, B: 0xb4, A: 0xff} // the library, when it is ahead
	orange    = color.NRGBA{R: 0xe0, G: 0x7b, B: 0x1a, A: 0xff} // the library, when it is not
	grey      = color.NRGBA{R: 0x55, G: 0x55, B: 0x55, A: 0xff}
	lightGrey = color.NRGBA{R: 0xdd, G: 0xdd, B: 0xdd, A: 0xff}
	purple    = color.NRGBA{R: 0x8a, G: 0x4f, B: 0xa8, A: 0xff}
)

const pictureDPI = 144

// pictures draws all for which there are results, each as SVG and PNG, and returns their names.
func (r *Report) pictures(dir string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var names []string
	for _, p := range append(r.ratioPictures(), r.growthPictures()...) {
		if err := p.save(filepath.Join(dir, p.name)); err != nil {
			return nil, err
		}
		names = append(names, p.name)
	}
	return names, nil
}

// picture draws itself on a canvas of its size.
type picture struct {
	name          string
	width, height vg.Length
	draw          func(c draw.Canvas)
}

func (p picture) save(path string) error {
	svg := vgsvg.New(p.width, p.height)
	p.draw(draw.New(svg))
	if err := writeTo(path+".svg", svg.WriteTo); err != nil {
		return err
	}
	img := vgimg.NewWith(vgimg.UseWH(p.width, p.height), vgimg.UseDPI(pictureDPI))
	p.draw(draw.New(img))
	return writeTo(path+".png", vgimg.PngCanvas{Canvas: img}.WriteTo)
}

func fileName(words string) string { return strings.ReplaceAll(strings.ToLower(words), " ", "-") }

func writeTo(path string, write func(io.Writer) (int64, error)) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = write(file)
	return errors.Join(err, file.Close())
}
