package growth_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/growth"
)

func chart(t *testing.T, of repository, q growth.Question) growth.Chart {
	t.Helper()
	h := count(t, of).History(noon)
	return growth.Chart{Title: "gitea.example.com & <others>", History: h, Forecast: h.Forecast(q)}
}

func TestCharts(t *testing.T) {
	t.Parallel()
	young := newRepository("gitea.example.com", "team/young")
	young.push("one", noon.Add(-3*day), 10*MB)
	for name, c := range map[string]growth.Chart{
		"fills":  chart(t, steady("team/api", 200, 100*MB), growth.Question{Capacity: 40 * GB, Others: 5 * GB}),
		"roomy":  chart(t, steady("team/api", 400, 10*MB), growth.Question{Capacity: 800 * GB}),
		"young":  chart(t, young, growth.Question{Capacity: 80 * GB}),
		"empty":  chart(t, newRepository("gitea.example.com", "team/empty"), growth.Question{}),
		"uneven": chart(t, uneven(), growth.Question{}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var text, svg strings.Builder
			c.Width, c.Height = 72, 18
			if err := c.Text(&text); err != nil {
				t.Fatal(err)
			}
			c.Width, c.Height = 480, 260
			if err := c.SVG(&svg); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".txt", text.String())
			golden(t, name+".svg", svg.String())
		})
	}
}

// uneven is a repository with pushes of many sizes, and of which two have no date.
func uneven() repository {
	r := newRepository("gitea.example.com", "team/uneven")
	for i := range 60 {
		r.push(fmt.Sprintf("t%d", i), noon.Add(-time.Duration(i*i)*day/10), int64(1+i*7%40)*MB)
	}
	r.push("undated", time.Time{}, 300*MB)
	r.push("undated too", time.Time{}, 100*MB)
	return r
}

func TestChartProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := add(t, someRepositories(t)).History(noon)
		q := growth.Question{Capacity: rapid.Int64Range(0, 2*GB).Draw(t, "capacity"), Others: rapid.Int64Range(0, GB).Draw(t, "others")}
		c := growth.Chart{
			Title: rapid.String().Draw(t, "title"), History: h, Forecast: h.Forecast(q),
			Width: rapid.IntRange(40, 200).Draw(t, "width"), Height: rapid.IntRange(12, 60).Draw(t, "height"),
		}
		var svg strings.Builder
		if err := c.SVG(&svg); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(svg.String(), "NaN") || strings.Contains(svg.String(), "Inf") || strings.Contains(svg.String(), "<script") {
			t.Fatal(svg.String())
		}
		decoder := xml.NewDecoder(strings.NewReader(svg.String()))
		for {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v in\n%s", err, svg.String())
			}
		}
		c.Title = "a title"
		var text strings.Builder
		if err := c.Text(&text); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
		for _, line := range lines {
			if utf8.RuneCountInString(line) > c.Width {
				t.Fatalf("%d columns are too wide:\n%s", c.Width, text.String())
			}
		}
		// Five lines are drawn, and below the axis four sentences said, at least.
		if said := 1 + 5 + 3 + 4*200/c.Width; len(lines) > max(c.Height, said) || c.Height >= said && len(lines) != c.Height {
			t.Fatalf("%d lines, not %d:\n%s", len(lines), c.Height, text.String())
		}
	})
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestChartWriteError(t *testing.T) {
	t.Parallel()
	c := chart(t, uneven(), growth.Question{})
	for name, draw := range map[string]func(io.Writer) error{"text": c.Text, "svg": c.SVG} {
		if err := draw(brokenPipe{}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
