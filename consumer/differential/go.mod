module github.com/regkeeper/regkeeper/consumer/differential

go 1.26.0

replace (
	github.com/regkeeper/regkeeper => ../..
	github.com/regkeeper/regkeeper/consumer/differential/peer => ./peer
)

require (
	github.com/regkeeper/regkeeper v0.0.0
	github.com/regkeeper/regkeeper/consumer/differential/peer v0.0.0
	pgregory.net/rapid v1.3.0
)

require (
	github.com/distribution/reference v0.6.0 // indirect
	github.com/docker/cli v29.9.3+incompatible // indirect
	github.com/docker/docker-credential-helpers v0.9.12 // indirect
	github.com/goccy/go-yaml v1.19.2 // indirect
	github.com/moby/sys/atomicwriter v0.1.0 // indirect
	github.com/moby/sys/sequential v0.6.0 // indirect
	github.com/opencontainers/go-digest v1.0.0 // indirect
	github.com/pelletier/go-toml/v2 v2.2.4 // indirect
	github.com/sirupsen/logrus v1.9.4 // indirect
	go.yaml.in/yaml/v2 v2.4.3 // indirect
	golang.org/x/sys v0.49.0 // indirect
)
