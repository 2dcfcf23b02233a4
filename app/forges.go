package app

import (
	"net/http"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/source/ecr"
	"github.com/regkeeper/regkeeper/source/gitlab"
	"github.com/regkeeper/regkeeper/source/harbor"
	"github.com/regkeeper/regkeeper/source/helper"
	"github.com/regkeeper/regkeeper/target/giteasecret"
	"github.com/regkeeper/regkeeper/target/gitlabvar"
	"github.com/regkeeper/regkeeper/target/runnerconfig"
	"github.com/regkeeper/regkeeper/target/ssh"
)

// remoteReread is how long what was found in a place on another host or at a forge
// counts: a look takes requests.
const remoteReread = 10 * time.Minute

// forgeSource makes the source of a registry whose logins a forge, a cloud or a
// helper gives; nil if it is none of these. known has a reference to a Secret read
// from the cluster.
func forgeSource(r config.Registry, instance string, client http.RoundTripper, known func(secretref.Ref) secretref.Ref) (source credential.Source, origin, terms string) {
	switch s := r.Source; {
	case s.GitLab != nil:
		g := s.GitLab
		where := strings.TrimSpace("project " + g.Project)
		if g.Project == "" {
			where = "group " + g.Group
		}
		return gitlab.New(gitlab.Config{
			URL: g.URL, Project: g.Project, Group: g.Group, Kind: gitlab.Kind(g.Kind), AccessLevel: g.AccessLevel,
			Token: known(g.Password), Transport: client, Now: time.Now,
		}), "gitlab " + where + " at " + g.URL, g.Kind
	case s.Harbor != nil:
		h := s.Harbor
		return harbor.New(harbor.Config{
			URL: h.URL, Project: h.Project, User: h.User, Password: known(h.Password), Transport: client, Now: time.Now,
		}), "harbor " + h.User + " in " + h.Project + " at " + h.URL, ""
	case s.ECR != nil:
		e := s.ECR
		return ecr.New(ecr.Config{
			Profile: e.Profile, Role: e.Role, Region: e.Region, Endpoint: e.Endpoint, RenewAhead: e.RenewAhead, Now: time.Now,
		}), strings.Join(strings.Fields("ecr "+e.Profile+" "+e.Role+" "+e.Region), " "), ""
	case s.Helper != nil:
		h := s.Helper
		return helper.New(helper.Config{Program: h.Program, ServerURL: h.Server, Timeout: h.Timeout, Salt: instance}), strings.TrimSpace("helper " + h.Program + " " + h.Server), ""
	}
	return nil, "", ""
}

// forgeTarget makes the target of an entry that is of a forge, a runner or other
// hosts; nil if it is none of these.
func forgeTarget(t config.Target, client http.RoundTripper, known func(secretref.Ref) secretref.Ref) (n *named, warnings []string, err error) {
	n = &named{name: t.Name, reread: remoteReread}
	switch {
	case t.GitLabVariable != nil:
		g := t.GitLabVariable
		made := gitlabvar.Config{
			URL: g.URL, Projects: g.Projects, Groups: g.Groups, Instance: g.Instance, Key: g.Name, Scope: g.Scope,
			Unmasked: g.Unmasked, Protected: g.Protected, Token: known(g.Password), Transport: client,
		}
		for _, warning := range gitlabvar.Warnings(made) {
			warnings = append(warnings, "target "+t.Name+": "+warning)
		}
		n.Target, n.kind = gitlabvar.New(made), "gitlabVariable"
	case t.GiteaSecret != nil:
		g := t.GiteaSecret
		made := giteasecret.Config{
			URL: g.URL, User: g.User, Password: known(g.Password), Repositories: g.Repositories, Organizations: g.Organizations, Own: g.Own,
			Name: g.Name, Prefix: g.Prefix, Host: g.Host, AnyRegistry: g.AnyRegistry, Adopt: g.Adopt, Transport: client,
		}
		n.kind = "giteaSecret"
		if g.Readable {
			n.Target = giteasecret.NewVariables(made)
		} else {
			n.Target = giteasecret.New(made)
		}
	case t.RunnerConfig != nil:
		r := t.RunnerConfig
		made := runnerconfig.Config{Path: r.Path, Runners: r.Runners, Mode: r.Mode}
		if r.UID >= 0 {
			made.Owner = &disk.Owner{UID: r.UID, GID: r.GID}
		}
		n.Target, n.kind, n.reread = runnerconfig.New(made), "runnerConfig", 0
	case t.SSH != nil:
		s := t.SSH
		made := ssh.Config{
			Path: s.Path, Identity: s.Identity, KnownHosts: s.KnownHosts, File: s.File, Jump: s.Jump, Timeout: s.Timeout,
		}
		for _, text := range s.Hosts {
			host, err := ssh.ParseHost(text)
			if err != nil {
				return nil, nil, err
			}
			made.Hosts = append(made.Hosts, host)
		}
		if err := made.Check(); err != nil {
			return nil, nil, err
		}
		n.Target, n.kind = ssh.New(made), "ssh"
	default:
		return nil, nil, nil
	}
	return n, warnings, nil
}
