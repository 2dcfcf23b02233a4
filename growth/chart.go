package growth

import (
	"io"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/guptarohit/asciigraph"
)

// Chart draws a history and how it goes on: what is there by day, the undated at
// its bottom; the forecast from now on; and the capacity less what else is on the
// disk, where there is one and it is not far above the rest.
type Chart struct {
	// Title says what it is of: "gitea.example.com, 3 repositories".
	Title    string
	History  History
	Forecast Forecast
	// Width and Height are columns and lines of text, all counted (0 is 80 and
	// 20), or of an SVG units (0 is 720 and 360).
	Width, Height int
}

// scene is what a chart shows.
type scene struct {
	begin, now, end time.Time
	base            float64 // the undated
	levels          levels
	pace            *Range // nil if there is none
	room            float64
	// top is the largest number that is shown; line says that the capacity is.
	top  float64
	line bool
}

func (c Chart) scene() scene {
	s := scene{now: c.History.Now, base: float64(c.History.Undated), levels: c.History.levels}
	s.begin = s.now.Add(-30 * day)
	if begin := c.History.begin(); !begin.IsZero() && begin.Before(s.begin) {
		s.begin = begin
	}
	span := s.now.Sub(s.begin)
	s.end = s.now
	if c.Forecast.TooLittle == "" && c.Forecast.Days > 0 {
		s.pace = &c.Forecast.PerYear
		// As far ahead as the past is long; and up to the full disk, if that is
		// not so far that there would be little to see of the past.
		s.end = s.now.Add(span)
		if full := c.Forecast.Full.At; full.After(s.now) {
			ahead := min(full.Sub(s.now)+span/10, 3*span)
			s.end = s.now.Add(max(ahead, span/3))
		}
	}
	s.top = max(s.level(s.now), 1000)
	if s.pace != nil {
		s.top = max(s.top, s.ahead(s.end, s.pace.High))
	}
	if c.Forecast.Capacity > 0 {
		s.room = float64(max(c.Forecast.Capacity-c.Forecast.Others, 0))
		if s.line = s.room <= 3*s.top; s.line {
			s.top = max(s.top, s.room)
		}
	}
	return s
}

// level is what was there at a time up to now.
func (s scene) level(at time.Time) float64 { return s.base + float64(s.levels.at(at)) }

// ahead is what will be there at a pace.
func (s scene) ahead(at time.Time, perYear int64) float64 {
	return s.level(s.now) + float64(perYear)*at.Sub(s.now).Hours()/year.Hours()
}

// notes are said below a chart, one a line.
func (c Chart) notes(s scene) []string {
	notes := []string{c.Forecast.String()}
	if s.room > 0 && !s.line {
		notes = append(notes, "the capacity of "+Bytes(c.Forecast.Capacity)+" is far above the chart")
	}
	return notes
}

// Text draws the chart for a terminal, in Unicode's box drawing: the measured as
// a line, the forecast as dots, the capacity as dashes. Below 40 columns it is
// not made narrower; five lines are drawn in any case, whatever is said below.
func (c Chart) Text(w io.Writer) error {
	s := c.scene()
	width, height := c.Width, c.Height
	if width <= 0 {
		width = 80
	}
	if height <= 0 {
		height = 20
	}
	width = max(width, 40)
	notes := wrap(c.notes(s), width)
	label := func(v float64) string { return Bytes(round(v)) }
	// Labels are no longer than "1000 MB"; the axis takes four columns more, and
	// half of the last date stands out.
	columns := width - 12 - 5
	lines := []string{}
	if c.Title != "" {
		lines = wrap([]string{c.Title}, width)
	}
	rows := max(height-len(lines)-len(notes)-4, 4) // axis, dates, legend, and the line at zero
	measured, forecast, room := make([]float64, columns), make([]float64, columns), make([]float64, columns)
	span := s.end.Sub(s.begin)
	for i := range columns {
		at := s.begin.Add(time.Duration(float64(span) * float64(i) / float64(columns-1)))
		measured[i], forecast[i], room[i] = math.NaN(), math.NaN(), s.room
		if !at.After(s.now) {
			measured[i] = s.level(at)
		} else if s.pace != nil {
			forecast[i] = s.ahead(at, s.pace.Middle)
		}
	}
	series := [][]float64{measured}
	chars := []asciigraph.CharSet{asciigraph.DefaultCharSet}
	legends := []string{"─ there"}
	if slices.ContainsFunc(forecast, func(v float64) bool { return !math.IsNaN(v) }) {
		series = append(series, forecast)
		chars = append(chars, asciigraph.CreateCharSet("·"))
		legends = append(legends, "· forecast")
	}
	if s.line {
		series = append([][]float64{room}, series...)
		chars = append([]asciigraph.CharSet{asciigraph.CreateCharSet("╌")}, chars...)
		legends = append(legends, "╌ capacity")
	}
	layout := "Jan 2006"
	if span < 120*day {
		layout = "2 Jan"
	}
	graph := asciigraph.PlotMany(series,
		asciigraph.Height(rows), asciigraph.LowerBound(0), asciigraph.UpperBound(s.top), asciigraph.SeriesChars(chars...),
		asciigraph.YAxisValueFormatter(label),
		asciigraph.XAxisRange(0, span.Seconds()), asciigraph.XAxisTickCount(max(columns/14, 2)),
		asciigraph.XAxisValueFormatter(func(v float64) string {
			return s.begin.Add(time.Duration(v * float64(time.Second))).Format(layout)
		}),
	)
	lines = append(lines, strings.Split(graph, "\n")...)
	lines = append(lines, strings.Join(legends, "   "))
	lines = append(lines, notes...)
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}

// round is a number of bytes.
func round(v float64) int64 {
	if v >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(math.Round(v))
}

// wrap breaks texts into lines.
func wrap(texts []string, width int) []string {
	var lines []string
	for _, text := range texts {
		line := ""
		for _, word := range strings.Fields(text) {
			switch {
			case line == "":
				line = word
			case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
				line += " " + word
			default:
				lines = append(lines, line)
				line = word
			}
		}
		lines = append(lines, line)
	}
	return lines
}
