// Package docs_test keeps the written pages true: the command pages are what
// the commands say of themselves, and every link leads somewhere.
package docs_test

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra/doc"

	"github.com/regkeeper/regkeeper/cli"
	"github.com/regkeeper/regkeeper/config"
)

var update = flag.Bool("update", false, "rewrite the command pages")

var root = filepath.Join("..", "..")

func TestCommandPages(t *testing.T) {
	folder := filepath.Join(root, "docs", "commands")
	made := t.TempDir()
	command := cli.Command()
	command.DisableAutoGenTag = true
	if err := doc.GenMarkdownTree(command, made); err != nil {
		t.Fatal(err)
	}
	want, have := pages(t, made), pages(t, folder)
	if *update {
		for name := range have {
			if _, ok := want[name]; !ok {
				check(t, os.Remove(filepath.Join(folder, name)))
			}
		}
		for name, text := range want {
			check(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644))
		}
		return
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("docs/commands is not what the commands say; run go test ./internal/docs -update (-want +got)\n%s", diff)
	}
}

func pages(t *testing.T, folder string) map[string]string {
	t.Helper()
	found := map[string]string{}
	entries, err := os.ReadDir(folder)
	check(t, err)
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		check(t, err)
		found[entry.Name()] = string(bytes.TrimRight(text, "\n")) + "\n"
	}
	return found
}

var link = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	links := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), match[1])); err != nil {
				t.Errorf("%s links to %s: %v", path, match[1], err)
			}
		}
		return nil
	})
	check(t, err)
	if links == 0 {
		t.Error("no link was looked at")
	}
}

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

func TestExampleIsAConfiguration(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	check(t, err)
	blocks := yamlBlock.FindAllSubmatch(text, -1)
	if len(blocks) == 0 {
		t.Fatal("README.md has no example")
	}
	for _, block := range blocks {
		c, err := config.Parse("README.md", "/etc/regkeeper", bytes.ReplaceAll(block[1], []byte("…"), []byte("x")))
		check(t, err)
		if len(c.Warnings) > 0 {
			t.Errorf("the example has warnings: %q", c.Warnings)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
