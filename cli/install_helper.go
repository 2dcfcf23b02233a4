package cli

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/helper"
	"github.com/regkeeper/regkeeper/problem"
)

// helperInstall is the command that has clients ask the credential helper.
type helperInstall struct {
	*env
	file, bin, path                string
	registries                     []string
	write, remove, dropAuths, copy bool
}

// helperInstalled is the result, as -o json prints it.
type helperInstalled struct {
	Path string `json:"path"`
	// Registries are those for which clients ask the helper, and Removed the keys
	// for which they do no longer.
	Registries []helperRegistry `json:"registries"`
	Removed    []string         `json:"removed"`
	// Program is the helper as the clients find it; empty if they do not.
	Program string `json:"program,omitempty"`
	// Data is the data folder it answers from.
	Data string `json:"data"`
	// Changed are the paths that were written, or that would be.
	Changed []string `json:"changed"`
	Written bool     `json:"written"`
	Notes   []string `json:"notes"`

	// global says that the file names the helper for all registries.
	global bool
}

type helperRegistry struct {
	Host credential.Host `json:"host"`
	Keys []string        `json:"keys"`
	// Auths says what becomes of the registry's entry under "auths": "kept",
	// "dropped", or "none".
	Auths string `json:"auths"`
}

func newInstallHelper(e *env) *cobra.Command {
	h := helperInstall{env: e}
	c := &cobra.Command{
		Use:   "helper",
		Short: "Have Docker's clients ask regkeeper for logins, in place of reading a file",
		Long: `Install helper shows what has docker, podman, skopeo, buildah, BuildKit and what else
reads a config.json ask ` + helper.Program + ` for the logins that
regkeeper keeps, and does it with --write. A rotated login is then used from the next
pull on, and no file holds it. The clients must run as the user whom regkeeper runs as,
who alone may read its logins; for others, and for clients that know no helpers, such as
a kubelet, there is the file target.

It names the helper under "credHelpers", for each registry of the configuration by
itself, and never as "credsStore", for all registries: clients ask a credsStore about
public images too, and some (act, the Gitea and Forgejo runners) fail their pulls when it
fails. What else the file has stays as it is, byte for byte. Entries of the helper for
registries that are no longer configured are taken out.

docker login to such a registry is refused, since the next rotation would undo it, but
for the login in force; docker logout erases nothing.

An entry under "auths" for such a registry stays, and clients pass it over as long as
the helper is named. --drop-auths takes it out.

The program is one of its own beside regkeeper, since clients run it for each pull and
it starts in milliseconds. It must be on the PATH of whoever runs the client; --bin links
it into a folder of that. Where the data folder is not one of the usual ones, it is
written down in ~/.config/regkeeper/helper.json.`,
		Example: example(
			"regkeeper install helper",
			"regkeeper install helper --write --bin /usr/local/bin",
			"regkeeper install helper --write --registry gitea.example.com --docker-config /home/ci/.docker/config.json",
			"regkeeper install helper --remove --write"),
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return h.run(c.Context()) },
	}
	flags := c.Flags()
	flags.StringVar(&h.file, "docker-config", "", "the config.json (default in $DOCKER_CONFIG, or ~/.docker)")
	flags.StringSliceVar(&h.registries, "registry", nil, "only for this registry; may be given several times")
	flags.BoolVar(&h.write, "write", false, "do it, rather than show it")
	flags.BoolVar(&h.remove, "remove", false, "take the helper out, so that clients read the file again")
	flags.BoolVar(&h.dropAuths, "drop-auths", false, `take the registries' entries under "auths" out`)
	flags.StringVar(&h.bin, "bin", "", "link the program into this folder")
	flags.BoolVar(&h.copy, "copy", false, "with --bin, copy the program rather than link it")
	flags.StringVar(&h.path, "consumer-path", "", "the PATH of whoever runs the client, such as a service's (default this one)")
	return c
}

func (h *helperInstall) run(ctx context.Context) error {
	switch {
	case h.remove && (h.dropAuths || h.bin != ""):
		return problem.New(problem.Usage, "leave them out", "--drop-auths and --bin do not go with --remove")
	case h.copy && h.bin == "":
		return problem.New(problem.Usage, "add --bin FOLDER", "--copy has nowhere to copy to")
	}
	hosts := make([]credential.Host, len(h.registries))
	for i, text := range h.registries {
		var err error
		if hosts[i], err = credential.ParseHost(text); err != nil {
			return err
		}
	}
	result := helperInstalled{Registries: []helperRegistry{}, Removed: []string{}, Changed: []string{}, Notes: []string{}, Written: h.write}
	var err error
	if result.Path, err = h.configFile(); err != nil {
		return err
	}
	if h.remove {
		_, result.Data, err = h.locate()
		if err != nil {
			return err
		}
		if err := h.edit(ctx, &result, nil, func(key string) bool { return len(hosts) == 0 || isKeyOf(hosts, key) }); err != nil {
			return err
		}
		return h.show(result)
	}
	if err := h.set(ctx, &result, hosts); err != nil {
		return err
	}
	return h.show(result)
}

// set has clients ask the helper for the hosts, or for all that are configured.
func (h *helperInstall) set(ctx context.Context, result *helperInstalled, hosts []credential.Host) error {
	c, data, err := h.loadOrDefault()
	if err != nil {
		return err
	}
	h.warn(c.Warnings)
	result.Data = data
	var kept []credential.Host
	for _, r := range c.Registries {
		kept = append(kept, r.Host)
	}
	stale := func(key string) bool { return !isKeyOf(kept, key) }
	if len(hosts) == 0 {
		hosts = kept
	} else {
		stale = func(string) bool { return false }
	}
	for _, host := range hosts {
		if !slices.Contains(kept, host) {
			return problem.New(problem.NotFound, "name one of the configuration's registries, or add it there", "regkeeper does not keep %s", host)
		}
	}
	if name, host, ok := deliversInto(c, result.Path, hosts); ok {
		return problem.New(problem.Config, "take the registry out of that target, or name another file with --docker-config: clients would ask the helper, and pass over what is delivered",
			"target %s delivers logins for %s into %s", name, host, result.Path)
	}
	if c.State != nil {
		result.Notes = append(result.Notes, "The state is kept in a cluster: the helper asks the daemon on this host, which has to run.")
	}
	// The program and the note first: a client that is told of a helper it cannot run
	// pulls nothing from that registry.
	if err := h.program(result); err != nil {
		return err
	}
	if err := h.noteFolder(result); err != nil {
		return err
	}
	return h.edit(ctx, result, hosts, stale)
}

// configFile is the document of the clients.
func (h *helperInstall) configFile() (string, error) {
	path := h.file
	if path == "" {
		folder := os.Getenv("DOCKER_CONFIG")
		if folder == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", problem.Wrap(err, problem.Usage, "name the file with --docker-config", "find the home folder")
			}
			folder = filepath.Join(home, ".docker")
		}
		path = filepath.Join(folder, "config.json")
	}
	return filepath.Abs(path)
}

// isKeyOf says whether a key under "credHelpers" is one of the hosts'.
func isKeyOf(hosts []credential.Host, key string) bool {
	return slices.ContainsFunc(hosts, func(host credential.Host) bool { return slices.Contains(dockerconfig.HelperKeys(host), key) })
}

// deliversInto finds a target that delivers the login of one of the hosts into the
// file: what a helper answers for is never read there.
func deliversInto(c config.Config, file string, hosts []credential.Host) (name string, host credential.Host, ok bool) {
	for _, t := range c.Targets {
		if t.File == nil || t.File.Format != config.FormatDocker || !slices.Contains(t.File.Paths, file) {
			continue
		}
		for _, host := range hosts {
			if len(t.Registries) == 0 || slices.Contains(t.Registries, host) {
				return t.Name, host, true
			}
		}
	}
	return "", "", false
}

// program finds the helper where clients do, and links it there if that was asked
// for.
func (h *helperInstall) program(result *helperInstalled) error {
	if h.bin != "" {
		own, err := ownHelper()
		if err != nil {
			return err
		}
		bin, err := filepath.Abs(h.bin)
		if err != nil {
			return err
		}
		to := filepath.Join(bin, filepath.Base(own))
		changed, err := (&nodeInstall{env: h.env, write: h.write, copy: h.copy}).place(own, to)
		if err != nil {
			return err
		}
		if changed {
			result.Changed = append(result.Changed, to)
		}
		if !slices.Contains(filepath.SplitList(h.consumerPath()), bin) {
			result.Notes = append(result.Notes, bin+" is not on the PATH: whoever runs the client needs it there.")
		}
		result.Program = to
		return nil
	}
	found, ok := lookIn(h.consumerPath())
	if ok {
		result.Program = found
		return nil
	}
	hint := "build it: go install github.com/regkeeper/regkeeper/cmd/" + helper.Program + "@latest"
	if own, err := ownHelper(); err == nil {
		hint = own + " is it: add --bin with a folder of that PATH, such as /usr/local/bin"
	}
	missing := problem.New(problem.NotFound, hint, "%s is not on the PATH %s, and clients could not run it", helper.Program, h.consumerPath())
	if h.write {
		return missing
	}
	result.Notes = append(result.Notes, missing.Text+": "+hint)
	return nil
}

func (h *helperInstall) consumerPath() string { return cmp.Or(h.path, os.Getenv("PATH")) }

// lookIn finds the helper on a PATH.
func lookIn(path string) (string, bool) {
	for _, folder := range filepath.SplitList(path) {
		// Relative folders are of the client's working folder, which is not known.
		if !filepath.IsAbs(folder) {
			continue
		}
		if found, err := exec.LookPath(filepath.Join(folder, helper.Program)); err == nil {
			return found, true
		}
	}
	return "", false
}

// ownHelper is the helper that came with this program: it lies beside it.
func ownHelper() (string, error) {
	own, err := os.Executable()
	if err != nil {
		return "", err
	}
	if resolved, err := filepath.EvalSymlinks(own); err == nil {
		own = resolved
	}
	// The extension is that of this program: .exe, or none.
	path := filepath.Join(filepath.Dir(own), helper.Program+executableExtension(own))
	if _, err := os.Stat(path); err != nil {
		return "", problem.New(problem.NotFound, "put it beside regkeeper: go install github.com/regkeeper/regkeeper/cmd/"+helper.Program+"@latest",
			"%s is not beside %s", helper.Program, own)
	}
	return path, nil
}

func executableExtension(program string) string {
	if filepath.Ext(program) == ".exe" {
		return ".exe"
	}
	return ""
}

// noteFolder writes the data folder down, if the helper would not find it.
func (h *helperInstall) noteFolder(result *helperInstalled) error {
	path := helper.Note(os.Getenv)
	if path == "" {
		result.Notes = append(result.Notes, "This user has no home folder: set "+helper.FolderVariable+"="+result.Data+" for whoever runs the client.")
		return nil
	}
	noted, err := helper.ReadNote(path)
	if err != nil {
		return err
	}
	if slices.Contains(noted, result.Data) || len(noted) == 0 && slices.Contains(helper.Usual(os.Getenv), result.Data) {
		return nil
	}
	result.Changed = append(result.Changed, path)
	if !h.write {
		return nil
	}
	return helper.WriteNote(path, append(noted, result.Data))
}

// edit changes the document, or finds what would change.
func (h *helperInstall) edit(ctx context.Context, result *helperInstalled, hosts []credential.Host, stale func(key string) bool) error {
	file := dockerconfig.File{Path: result.Path}
	if info, err := os.Stat(file.Path); err == nil {
		// Others may read it as it is.
		file.Mode = info.Mode().Perm()
	} else if h.remove && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var fault error
	change := func(doc *dockerconfig.Document) bool {
		changed, err := h.change(doc, result, hosts, stale)
		fault = err
		return changed && err == nil
	}
	var changed bool
	var err error
	if h.write {
		changed, err = file.Update(ctx, change)
	} else {
		var doc *dockerconfig.Document
		if doc, err = file.Read(); err == nil {
			changed = change(doc)
		}
	}
	if err != nil {
		return err
	}
	if fault != nil {
		return problem.Wrap(fault, problem.KindOf(fault), problem.HintOf(fault), "%s", result.Path)
	}
	if changed {
		result.Changed = append(result.Changed, result.Path)
	}
	return nil
}

// change is the change of the document, which may be made again on a later one.
func (h *helperInstall) change(doc *dockerconfig.Document, result *helperInstalled, hosts []credential.Host, stale func(key string) bool) (changed bool, err error) {
	result.Registries, result.global = []helperRegistry{}, doc.GlobalHelper() == helper.Name
	result.Removed = append([]string{}, doc.RemoveHelper(helper.Name, stale)...)
	changed = len(result.Removed) > 0
	for _, host := range hosts {
		set, err := doc.SetHelper(host, helper.Name)
		if err != nil {
			return false, err
		}
		row := helperRegistry{Host: host, Keys: dockerconfig.HelperKeys(host), Auths: "none"}
		switch {
		case doc.Entry(host) && h.dropAuths:
			row.Auths, set = "dropped", doc.Remove(host) || set
		case doc.Entry(host):
			row.Auths = "kept"
		}
		result.Registries = append(result.Registries, row)
		changed = changed || set
	}
	return changed, nil
}

func (h *helperInstall) show(result helperInstalled) error {
	for _, row := range result.Registries {
		if row.Auths == "kept" {
			result.Notes = append(result.Notes, `The entry for `+string(row.Host)+` under "auths" stays; clients pass it over while the helper is named. --drop-auths takes it out.`)
		}
	}
	if result.global {
		result.Notes = append(result.Notes, `"credsStore" names regkeeper for all registries: take it out by hand, or each pull of a public image fails when the helper does.`)
	}
	if len(result.Removed) > 0 && h.remove {
		result.Notes = append(result.Notes, "The program and what is written down for it stay where they are: other files may name it too.")
	}
	if h.json() {
		return h.printJSON(result)
	}
	would := ""
	if !h.write {
		would = "would "
	}
	for _, row := range result.Registries {
		h.printf("%s: clients %sask %s\n", row.Host, would, helper.Program)
		if row.Auths == "dropped" {
			h.printf("%s: %sdrop its entry under \"auths\"\n", row.Host, would)
		}
	}
	for _, key := range result.Removed {
		h.printf("%s: clients %sread the file again\n", key, would)
	}
	for _, path := range result.Changed {
		if h.write {
			h.printf("wrote %s\n", path)
		} else {
			h.printf("would write %s\n", path)
		}
	}
	if len(result.Changed) == 0 {
		h.printf("%s is as it should be\n", result.Path)
	}
	for _, note := range result.Notes {
		h.note("%s", note)
	}
	if !h.write && len(result.Changed) > 0 {
		h.note("Nothing was written. Add --write to do it.")
	}
	return nil
}
