package growth

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// style needs no script and no other file; it follows the reader's wish for dark.
// Colours are repeated: not every viewer knows CSS variables.
const style = `
.chart { font: 12px sans-serif; }
.back { fill: #ffffff; }
text { fill: #1f2328; }
.title { font-size: 15px; font-weight: bold; }
.grid { stroke: #d8dee4; }
.axis { stroke: #1f2328; fill: none; }
.there { stroke: #0550ae; stroke-width: 2; fill: none; }
.ahead { stroke: #0550ae; stroke-width: 2; stroke-dasharray: 2 4; fill: none; }
.band { fill: #0550ae; opacity: 0.2; }
.room { stroke: #b42318; stroke-width: 2; stroke-dasharray: 8 4; }
.full { fill: #b42318; }
@media (prefers-color-scheme: dark) {
.back { fill: #0d1117; }
text { fill: #e6edf3; }
.grid { stroke: #30363d; }
.axis { stroke: #e6edf3; }
.there, .ahead { stroke: #79c0ff; }
.band { fill: #79c0ff; }
.room { stroke: #ff9a8f; }
.full { fill: #ff9a8f; }
}
`

// element is a part of an SVG document. Texts and attributes are escaped by
// encoding/xml.
type element struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Children []element
}

// el makes an element; attributes are pairs of name and value.
func el(name, text string, attrs ...string) element {
	e := element{XMLName: xml.Name{Local: name}, Text: printable(text)}
	for i := 0; i+1 < len(attrs); i += 2 {
		e.Attrs = append(e.Attrs, xml.Attr{Name: xml.Name{Local: attrs[i]}, Value: attrs[i+1]})
	}
	return e
}

func (e element) with(children ...element) element {
	e.Children = append(e.Children, children...)
	return e
}

// printable has no characters that XML cannot hold.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0xfffe || r == 0xffff {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
}

// SVG draws the chart as a document of its own (SVG 1.1): with a title and a
// description for those who do not see it, light or dark as the reader has it, and
// without scripts and links. Below 320 by 200 it is not made smaller.
func (c Chart) SVG(w io.Writer) error {
	s := c.scene()
	width, height := c.Width, c.Height
	if width <= 0 {
		width = 720
	}
	if height <= 0 {
		height = 360
	}
	width, height = max(width, 320), max(height, 200)
	notes := wrap(c.notes(s), (width-20)*2/13)
	f := frame{
		scene: s, left: 70, right: float64(width - 20),
		upper: 40, lower: float64(height - 45 - 16*len(notes)),
	}
	title := c.Title
	if title == "" {
		title = "Size of the repositories"
	}
	root := el("svg", "",
		"xmlns", "http://www.w3.org/2000/svg", "class", "chart", "role", "img", "aria-labelledby", "title desc",
		"viewBox", fmt.Sprintf("0 0 %d %d", width, height), "width", strconv.Itoa(width), "height", strconv.Itoa(height),
	).with(
		el("title", title, "id", "title"),
		el("desc", c.described(s), "id", "desc"),
		el("style", strings.Join(strings.Fields(style), " ")),
		el("rect", "", "class", "back", "width", strconv.Itoa(width), "height", strconv.Itoa(height)),
		el("text", title, "class", "title", "x", "10", "y", "22"),
	)
	root = root.with(f.axes()...).with(f.series(c.Forecast)...)
	for i, note := range notes {
		root = root.with(el("text", note, "x", "10", "y", strconv.Itoa(height-12-16*(len(notes)-1-i))))
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	encoder := xml.NewEncoder(w)
	encoder.Indent("", " ")
	if err := encoder.Encode(root); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// described is the chart in words.
func (c Chart) described(s scene) string {
	return fmt.Sprintf("From %s to %s the size grew from %s to %s. Forecast: %s.",
		s.begin.Format("2 January 2006"), s.now.Format("2 January 2006"),
		Bytes(round(s.level(s.begin))), Bytes(round(s.level(s.now))), strings.Join(c.notes(s), "; "))
}

// frame is where on the page a scene is.
type frame struct {
	scene
	left, right, upper, lower float64
}

func (f frame) x(at time.Time) float64 {
	return f.left + (f.right-f.left)*float64(at.Sub(f.begin))/float64(f.end.Sub(f.begin))
}

func (f frame) y(bytes float64) float64 {
	return f.lower - (f.lower-f.upper)*bytes/f.top
}

func (f frame) axes() []element {
	all := []element{
		el("text", "size", "x", number(f.left-8), "y", number(f.upper-6), "text-anchor", "end"),
		el("text", "date", "x", number(f.right), "y", number(f.lower+34), "text-anchor", "end"),
	}
	step := sizeStep(f.top / max((f.lower-f.upper)/28, 1))
	for v := 0.0; v <= f.top; v += step {
		y := number(f.y(v))
		all = append(all,
			el("line", "", "class", "grid", "x1", number(f.left), "x2", number(f.right), "y1", y, "y2", y),
			el("text", Bytes(round(v)), "x", number(f.left-8), "y", number(f.y(v)+4), "text-anchor", "end"))
	}
	dates, layout := dateTicks(f.begin, f.end, int((f.right-f.left)/80))
	for _, at := range dates {
		x := number(f.x(at))
		all = append(all,
			el("line", "", "class", "axis", "x1", x, "x2", x, "y1", number(f.lower), "y2", number(f.lower+5)),
			el("text", at.Format(layout), "x", x, "y", number(f.lower+19), "text-anchor", "middle"))
	}
	return append(all, el("path", "", "class", "axis",
		"d", fmt.Sprintf("M%s %sV%sH%s", number(f.left), number(f.upper), number(f.lower), number(f.right))))
}

func (f frame) series(forecast Forecast) []element {
	var all []element
	if f.pace != nil {
		from := number(f.x(f.now)) + " " + number(f.y(f.level(f.now)))
		to := func(pace int64) string { return number(f.x(f.end)) + " " + number(f.y(f.ahead(f.end, pace))) }
		all = append(all,
			el("path", "", "class", "band", "d", "M"+from+"L"+to(f.pace.Low)+"L"+to(f.pace.High)+"Z"),
			el("path", "", "class", "ahead", "d", "M"+from+"L"+to(f.pace.Middle)))
	}
	// One step for each unit of width at most.
	var d strings.Builder
	fmt.Fprintf(&d, "M%s %s", number(f.left), number(f.y(f.level(f.begin))))
	for i, l := range f.levels {
		x := f.x(time.Unix(l.at, 0))
		if i+1 < len(f.levels) && math.Floor(x) == math.Floor(f.x(time.Unix(f.levels[i+1].at, 0))) {
			continue
		}
		fmt.Fprintf(&d, "H%sV%s", number(x), number(f.y(f.base+float64(l.bytes))))
	}
	fmt.Fprintf(&d, "H%s", number(f.x(f.now)))
	all = append(all, el("path", "", "class", "there", "d", d.String()))
	if f.line {
		y := number(f.y(f.room))
		text := Bytes(forecast.Capacity)
		if forecast.Others > 0 {
			text += " less " + Bytes(forecast.Others) + " of others"
		}
		all = append(all,
			el("line", "", "class", "room", "x1", number(f.left), "x2", number(f.right), "y1", y, "y2", y),
			el("text", "capacity "+text, "class", "full", "x", number(f.left+6), "y", number(f.y(f.room)-5)))
	}
	return all
}

func number(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// sizeStep is the next 1, 2 or 5 times a power of ten.
func sizeStep(least float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(max(least, 1))))
	for _, n := range []float64{1, 2, 5} {
		if n*unit >= least {
			return n * unit
		}
	}
	return 10 * unit
}

// dateTicks are dates to write at an axis, at most so many, and how.
func dateTicks(begin, end time.Time, most int) ([]time.Time, string) {
	steps := []struct {
		days, months int
		layout       string
	}{
		{1, 0, "2 Jan"}, {2, 0, "2 Jan"}, {7, 0, "2 Jan"}, {14, 0, "2 Jan"},
		{0, 1, "Jan 2006"}, {0, 2, "Jan 2006"}, {0, 3, "Jan 2006"}, {0, 6, "Jan 2006"},
		{0, 12, "2006"}, {0, 24, "2006"}, {0, 60, "2006"}, {0, 120, "2006"}, {0, 240, "2006"}, {0, 600, "2006"},
	}
	for i, step := range steps {
		at := time.Date(begin.Year(), begin.Month(), begin.Day(), 0, 0, 0, 0, time.UTC)
		if step.months > 0 {
			at = time.Date(begin.Year(), 1, 1, 0, 0, 0, 0, time.UTC)
		}
		if years := step.months / 12; years > 1 {
			at = time.Date(begin.Year()-begin.Year()%years, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		var ticks []time.Time
		for ; !at.After(end) && len(ticks) <= most; at = at.AddDate(0, step.months, step.days) {
			if !at.Before(begin) {
				ticks = append(ticks, at)
			}
		}
		if len(ticks) <= most || i == len(steps)-1 {
			return ticks, step.layout
		}
	}
	return nil, ""
}
