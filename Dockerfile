# The image: one static program, the certificates of the public authorities, and
# a user that is not root.
#
#   docker build -t REGISTRY/regkeeper:TAG .
#   docker buildx build --platform linux/amd64,linux/arm64 -t REGISTRY/regkeeper:TAG --push .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
# With .git, so that the program knows its version.
COPY . .
ARG TARGETOS TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags '-s -w' -o /out/regkeeper ./cmd/regkeeper \
 && CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags '-s -w' -o /out/docker-credential-regkeeper ./cmd/docker-credential-regkeeper \
 && mkdir -p /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/regkeeper /regkeeper
COPY --from=build /out/docker-credential-regkeeper /docker-credential-regkeeper
# Where the state is, unless the configuration keeps it in a cluster.
COPY --from=build --chown=65532:65532 /out/data /var/lib/regkeeper
USER 65532:65532
ENTRYPOINT ["/regkeeper"]
